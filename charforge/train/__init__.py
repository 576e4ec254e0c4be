"""Training: SFT and DPO through TRL and PEFT, and the launcher. Nothing else imports those libraries but models.py."""
