// Filters what was said, opens what a link points at, and unfolds the page for paper. Without it all can be read by hand.
(() => {
  const scrolls = [...document.querySelectorAll(".scroll")];
  const box = document.getElementById("filter");
  // Only what scrolls needs a stop on the way of the Tab key; what is led to stands below the bar that stays in sight.
  const stops = () => {
    const stays = box && getComputedStyle(box).position === "sticky";
    document.documentElement.style.setProperty("--bar", `${stays ? box.offsetHeight : 0}px`);
    for (const table of scrolls) {
      if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
      else table.removeAttribute("tabindex");
    }
  };

  const target = () => {
    try {
      return document.getElementById(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return null;
    }
  };
  const reveal = () => {
    const node = target();
    if (!node) return;
    for (let up = node; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
    stops();
    node.scrollIntoView();
    if (node.tagName === "DETAILS") node.querySelector("summary").focus({ preventScroll: true });
  };

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")].filter((node) => !node.closest(".rows, .aside"));
    for (const node of unfolded) node.open = true;
  });
  addEventListener("afterprint", () => {
    for (const node of unfolded) node.open = false;
  });

  const words = document.getElementById("filter-words");
  const found = document.getElementById("filter-found");
  const choices = box ? [...box.querySelectorAll("select")] : [];
  const groups = [...document.querySelectorAll(".rows, .rows details, .rows .part")].reverse();
  // So few matches are unfolded at once, and so many have their words marked.
  const few = 200;
  let items = null;

  // As it is typed on any keyboard, so it is found.
  const fold = (text) => text.normalize("NFC").toLowerCase().replace(/[\u2018\u2019]/g, "'");
  const value = (node, key) => node.closest(`[data-${key}]`)?.dataset[key] ?? "";
  const read = () =>
    [...document.querySelectorAll("[data-item]")].map((node) => {
      const parts = [...node.querySelectorAll("[data-part]")];
      return {
        node,
        parts: (parts.length ? parts : [node]).map((part) => ({
          node: part,
          values: choices.map((choice) => value(part, choice.dataset.key)),
        })),
        texts: new Map(),
      };
    });

  const mark = (shown, sought) => {
    if (!globalThis.Highlight) return;
    CSS.highlights.delete("sought");
    if (!sought.length || shown.length > few) return;
    const ranges = [];
    for (const item of shown) {
      const walker = document.createTreeWalker(item.node, NodeFilter.SHOW_TEXT);
      for (let text = walker.nextNode(); text; text = walker.nextNode()) {
        const low = fold(text.data);
        // A letter whose small form is longer would move all places after it.
        if (low.length !== text.data.length) continue;
        for (const word of sought)
          for (let at = low.indexOf(word); at >= 0; at = low.indexOf(word, at + word.length)) {
            const range = new Range();
            range.setStart(text, at);
            range.setEnd(text, at + word.length);
            ranges.push(range);
          }
      }
    }
    CSS.highlights.set("sought", new Highlight(...ranges));
  };

  // What an item says, without what its chosen arm leaves hidden of it.
  const text = (item, chosen) => {
    if (!item.texts.has(chosen)) {
      const left = chosen && item.parts.length > 1 ? item.node.cloneNode(true) : item.node;
      if (left !== item.node)
        for (const part of left.querySelectorAll("[data-part]")) if (part.dataset.arm !== chosen) part.remove();
      item.texts.set(chosen, fold(left.textContent));
    }
    return item.texts.get(chosen);
  };

  const apply = () => {
    items ??= read();
    // Words in any order; what stands in quotation marks, straight or not, as it is.
    const quoted = fold(words.value).replace(/[\u201c-\u201f\u00ab\u00bb]/g, '"');
    const sought = [...quoted.matchAll(/"([^"]+)"|[^\s"]+/g)].map((match) => match[1] ?? match[0]);
    const wanted = choices.map((choice) => choice.value);
    const arm = choices.findIndex((choice) => choice.dataset.key === "arm");
    const chosen = wanted[arm] ?? "";
    const shown = [];
    const open = new Set();
    for (const item of items) {
      const fits = item.parts.some((part) => wanted.every((want, index) => !want || part.values[index] === want));
      const keep = fits && sought.every((word) => text(item, chosen).includes(word));
      item.node.hidden = !keep;
      if (!keep) continue;
      shown.push(item);
      // Of several replies to one prompt those of the arm that was chosen; the others may be why a reader looks.
      for (const part of item.parts)
        if (part.node !== item.node) part.node.hidden = chosen !== "" && part.values[arm] !== chosen;
      for (let up = item.node.closest(".rows .part"); up && up.id !== "rows"; up = up.parentElement) open.add(up);
    }
    const filtered = wanted.some(Boolean) || sought.length > 0;
    for (const group of groups) {
      group.hidden = filtered && !open.has(group);
      if (filtered && shown.length <= few && open.has(group) && group.tagName === "DETAILS") group.open = true;
    }
    mark(shown, sought);
    found.textContent = `${shown.length} of ${items.length} ${found.dataset.what}`;
    found.classList.toggle("filtered", filtered);
  };

  const clear = (values = {}) => {
    words.value = "";
    for (const choice of choices) choice.value = values[choice.dataset.key] ?? "";
    apply();
  };

  if (box) {
    let wait = 0;
    for (const control of [words, ...choices])
      control.addEventListener("input", () => {
        clearTimeout(wait);
        wait = setTimeout(apply, control === words ? 150 : 0);
      });
    document.getElementById("filter-clear").addEventListener("click", () => {
      clear();
      words.focus();
    });
    document.addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#rows-"]');
      if (!link) return;
      // A number of several groups shows its own arm and trait; what hid the rows of another one goes.
      clear({ arm: link.dataset.arm, trait: link.dataset.trait });
      if (link.hash !== location.hash) return;
      // Followed once more, the link would take the focus away again.
      event.preventDefault();
      reveal();
    });
    box.hidden = false;
    apply();
  }
  addEventListener("hashchange", reveal);
  addEventListener("resize", stops);
  document.addEventListener("toggle", stops, true);
  stops();
  reveal();
})();
