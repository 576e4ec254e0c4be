// Filters the transcripts. Without it the page shows them all.
(() => {
  const box = document.getElementById("filter");
  if (!box) return;
  const [trait, kind, words] = ["filter-trait", "filter-kind", "filter-words"].map((id) => document.getElementById(id));
  const found = document.getElementById("filter-found");
  const samples = [...document.querySelectorAll(".sample")].map((node) => [node, node.textContent.toLowerCase()]);
  const apply = () => {
    const sought = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [node, text] of samples) {
      const keep =
        (!trait.value || node.dataset.trait === trait.value) &&
        (!kind.value || node.dataset.kind === kind.value) &&
        sought.every((word) => text.includes(word));
      node.hidden = !keep;
      shown += keep ? 1 : 0;
    }
    found.textContent = `${shown} of ${samples.length} prompts`;
  };
  for (const control of [trait, kind, words]) control.addEventListener("input", apply);
  box.hidden = false;
  apply();
})();
