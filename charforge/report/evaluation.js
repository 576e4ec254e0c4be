// Opens what a link points at, and filters the rows. Without it the rows can be unfolded by hand.
(() => {
  const box = document.getElementById("filter");
  const [suite, arm, trait, words] = ["suite", "arm", "trait", "words"].map((name) => document.getElementById(`filter-${name}`));
  const found = document.getElementById("filter-found");
  const rows = [...document.querySelectorAll("#rows .row")];
  const groups = [...document.querySelectorAll("#rows details")].reverse();
  let texts = null;
  // So few matches are unfolded at once.
  const few = 200;

  const apply = () => {
    const sought = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (sought.length) texts ??= new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const open = new Set();
    let shown = 0;
    for (const row of rows) {
      const group = row.closest("[data-arm]");
      const keep =
        (!suite.value || row.closest("[data-suite]").dataset.suite === suite.value) &&
        (!arm.value || group.dataset.arm === arm.value) &&
        (!trait.value || row.dataset.trait === trait.value) &&
        sought.every((word) => texts.get(row).includes(word));
      row.hidden = !keep;
      if (!keep) continue;
      shown += 1;
      for (let up = group; up && up.id !== "rows"; up = up.parentElement) open.add(up);
    }
    const filtered = Boolean(suite.value || arm.value || trait.value || sought.length);
    for (const group of groups) {
      group.hidden = filtered && !open.has(group);
      if (filtered && sought.length && shown <= few && open.has(group)) group.open = true;
    }
    found.textContent = `${shown} of ${rows.length} rows`;
  };

  const reveal = () => {
    const node = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!node) return;
    for (let up = node; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    node.scrollIntoView();
    const target = node.tagName === "DETAILS" ? node.querySelector("summary") : null;
    if (target) target.focus({ preventScroll: true });
  };

  let wait = 0;
  for (const control of [suite, arm, trait, words])
    control.addEventListener("input", () => {
      clearTimeout(wait);
      wait = setTimeout(apply, control === words ? 150 : 0);
    });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#rows-"]');
    if (!link) return;
    // A number of several groups shows its own arm and trait; what hid the rows of another one goes.
    [suite.value, arm.value, trait.value, words.value] = ["", link.dataset.arm ?? "", link.dataset.trait ?? "", ""];
    apply();
    if (link.hash === location.hash) reveal();
  });
  addEventListener("hashchange", reveal);
  box.hidden = false;
  apply();
  reveal();
})();
