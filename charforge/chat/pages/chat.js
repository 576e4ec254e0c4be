// The page of a talk. What models and people wrote is only ever set as text, never as markup.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const GLYPHS = "◆■▲●";
  const ENDS = { length: "cut at the longest length", stopped: "stopped", late: "time was up", failed: "failed" };
  const KINDS = { character: "a trained character", model: "a bare model", prompt: "a model told a constitution in brief" };

  // --- text and elements ----------------------------------------------------------------------------------------

  // The same as charforge.report.text.visible: what hides in a text is shown as ⟦U+XXXX⟧.
  const EMOJI = "\\u2190-\\u21ff\\u2300-\\u27bf\\u2b00-\\u2bff\\u{1f000}-\\u{1fbff}";
  const HIDDEN = new RegExp(
    `(?!(?<=[${EMOJI}\\ufe0f])\\u200d(?=[${EMOJI}]))[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u202a-\\u202e` +
      "\\u2066-\\u2069\\u00ad\\u180e\\u200b-\\u200d\\u2060-\\u2065\\ufeff\\u2028\\u2029\\u206a-\\u206f\\ufff9-\\ufffb" +
      "\\u{e0000}-\\u{e007f}\\ud800-\\udfff]",
    "gu",
  );
  const visible = (text) =>
    String(text)
      .replaceAll("\t", " ")
      .replace(HIDDEN, (found) => `⟦U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);

  /** An element. Strings among its children become text; `onclick` and the like listeners; `key` keeps its focus. */
  const h = (tag, given = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "key") node.dataset.key = value;
      else if (name === "value") node.value = value;
      else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : visible(child));
    }
    return node;
  };
  const glyph = (place) => h("span", { class: "glyph", "aria-hidden": "true" }, GLYPHS[place % GLYPHS.length]);
  const hue = (place) => `hue-${place % GLYPHS.length}`;
  const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
  const day = (made) => made.slice(0, 16).replace("T", " ");
  const shorter = (text, length) => (text.length <= length ? text : `${text.slice(0, length - 1).trimEnd()}…`);
  const estimate = (each) => each.share.toFixed(2) + (each.why === null ? ` [${each.low.toFixed(2)}, ${each.high.toFixed(2)}]` : "");

  // --- the server -----------------------------------------------------------------------------------------------

  class Problem extends Error {}

  const request = async (path, body, signal) => {
    let answer;
    try {
      answer = await fetch(path, body === undefined ? { signal } : {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
    } catch {
      throw new Problem("The server does not answer. Is charforge chat still running?");
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({}));
    throw new Problem([told.error ?? `The server said ${answer.status}.`, told.hint].filter(Boolean).join("\n"));
  };
  const ask = async (path, body) => (await request(path, body)).json();

  const say = (text) => { $("status").textContent = visible(text); };
  const complain = (text) => {
    $("problem").textContent = visible(text ?? "");
    $("problem").hidden = !text;
  };
  /** Run what a button or a key asks for; what goes wrong is shown. */
  const doing = (work) => async (...given) => {
    complain(null);
    try {
      return await work(...given);
    } catch (error) {
      complain(error.message);
      if (!(error instanceof Problem)) throw error;
      return null;
    }
  };

  let saying = false;
  /** One at a time: a key that is pressed twice, before the server answered, says nothing twice. */
  const once = (work) => async (...given) => {
    if (saying) return;
    saying = true;
    try {
      await work(...given);
    } finally {
      saying = false;
    }
  };

  // --- what is known --------------------------------------------------------------------------------------------

  let about = null;
  let talk = null;
  let leaf = null;
  let file = null; // the text of a file that is shown and not kept
  let editing = null; // [turn, place], or [turn, null] for the message
  const coming = new Map(); // the texts so far of turns that are being answered
  const notes = new Map(); // what there is to know about probes that were asked from here
  const shownTexts = new Map(); // the elements that show them
  const shownTurns = new Map(); // the sections of turns, each with what it was made from
  let shownHead = null;

  const turnOf = (id) => talk.turns.find((turn) => turn.id === id);
  const childrenOf = (id) => talk.turns.filter((turn) => turn.parent === id);
  const path = () => {
    const found = [];
    for (let id = leaf; id !== null; id = found[0].parent) found.unshift(turnOf(id));
    return found;
  };
  const endOf = (id) => {
    for (let next = childrenOf(id); next.length; next = childrenOf(id)) id = next.at(-1).id;
    return id;
  };
  const nameOf = (place) => talk.speakers[place].name;
  const readonly = () => file !== null || !talk.here;
  const busy = () => leaf !== null && turnOf(leaf).coming;
  const link = () => `/api/talks/${talk.id}`;

  // --- the talk -------------------------------------------------------------------------------------------------

  const show = (view, id = null) => {
    talk = view;
    editing = null;
    shownTurns.clear();
    shownTexts.clear();
    leaf = id !== null && talk.turns.some((turn) => turn.id === id) ? id : endOf(null);
    const last = leaf === null ? null : turnOf(leaf);
    $("system").value = last ? last.system ?? "" : about.system ?? "";
    $("prefill").value = last ? last.prefill : "";
    $("temperature").value = last ? last.temperature : about.temperature;
    $("tokens").value = last ? Math.min(last.max_tokens, about.most_tokens) : about.max_tokens;
    $("kind").value = last ? last.kind : "chat";
    changed();
    render();
    seen();
  };

  const begin = doing(async (blind = about.blind) => {
    const view = await ask("/api/talks", { blind });
    file = null;
    // The way back leads to the talk that was left.
    if (location.hash) history.pushState(null, "", location.pathname);
    show(view);
    route();
    $("message").focus();
  });

  const open = async (id) => {
    file = null;
    show(await ask(`/api/talks/${id}`));
  };

  const settings = () => ({
    system: $("system").value || null,
    prefill: $("prefill").value,
    kind: $("kind").value,
    temperature: $("temperature").value === "" ? null : Number($("temperature").value),
    max_tokens: $("tokens").value === "" ? null : Math.round(Number($("tokens").value)),
  });

  const begun = (turn) => {
    if (turn.note) notes.set(turn.id, turn.note);
    talk.turns = talk.turns.filter((each) => each.id !== turn.id).concat(turn);
    talk.kept = true;
    talk.title ||= shorter(turn.text, 90);
    leaf = turn.id;
    editing = null;
    place();
    render();
    if (turn.coming) {
      say("Replies are coming.");
      follow(turn.id);
    }
    scrollTo({ top: document.body.scrollHeight });
  };

  /** The address of the talk, so that it can be come back to. */
  const place = () => {
    const hash = talk.kept && file === null ? `#talk=${talk.id}` : "";
    if (location.hash !== hash) history.replaceState(null, "", hash || location.pathname);
  };

  const send = doing(once(async (text = $("message").value, parent = leaf, more = {}) => {
    if (readonly() || busy() || (!text.trim() && !more.trait)) return;
    begun(await ask(`${link()}/turns`, { parent, text, ...settings(), ...more }));
    if (text === $("message").value) $("message").value = "";
    grow();
  }));

  const again = doing(once(async (id) => {
    if (!readonly() && !busy()) begun(await ask(`${link()}/turns/${id}/again`, {}));
  }));

  const rewrite = doing(once(async (id, place, text) => {
    const turn = await ask(`${link()}/turns/${id}/replies/${place}`, { text });
    begun(turn);
    say("A branch with the changed reply.");
  }));

  const stop = doing(async () => {
    if (busy()) await ask(`${link()}/turns/${leaf}/stop`, {});
  });

  const vote = doing(async (id, best) => {
    const kept = leaf;
    talk = await ask(`${link()}/turns/${id}/vote`, { best });
    leaf = kept;
    render();
    say(`Kept: ${voted(best)}.`);
  });

  const reveal = doing(async () => {
    const kept = leaf;
    talk = await ask(`${link()}/reveal`, {});
    leaf = kept;
    render();
    say(`Names are shown: ${talk.speakers.map((each) => `${each.letter} is ${each.name}`).join(", ")}.`);
  });

  const move = (id, steps) => {
    const beside = childrenOf(turnOf(id).parent);
    const next = beside[beside.findIndex((turn) => turn.id === id) + steps];
    if (!next) return;
    leaf = endOf(next.id);
    render();
    say(`Branch ${beside.indexOf(next) + 1} of ${beside.length}.`);
  };

  // A browser holds few connections to one server: a page that nobody sees gives its own back.
  const following = new Map();
  const follow = async (id) => {
    const where = talk.id;
    if (document.hidden || following.has(id)) return;
    const left = new AbortController();
    following.set(id, left);
    coming.set(id, talk.speakers.map(() => ""));
    try {
      const answer = await request(`/api/talks/${where}/turns/${id}/stream`, undefined, left.signal);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const lines = (rest + part.value).split("\n");
        rest = lines.pop();
        for (const line of lines) if (line) heard(where, id, JSON.parse(line));
      }
    } catch (error) {
      if (!left.signal.aborted)
        complain(error instanceof Problem ? error.message : "The connection was lost. What was said is kept: load this page again.");
    } finally {
      following.delete(id);
      coming.delete(id);
      if (left.signal.aborted) seen();
    }
  };
  const seen = () => {
    if (document.hidden) for (const left of following.values()) left.abort();
    else if (file === null) for (const turn of talk.turns) if (turn.coming) follow(turn.id);
  };

  const heard = (where, id, line) => {
    if (talk.id !== where) return;
    if (line.turn) {
      talk.turns = talk.turns.map((turn) => (turn.id === id ? line.turn : turn));
      coming.delete(id);
      for (const place of talk.speakers.keys()) shownTexts.delete(`${id} ${place}`);
      keepingPlace(render);
      if (line.lost) complain(line.lost);
      const said = line.turn.replies.filter((reply) => reply && reply.finish !== "failed").length;
      say(`${many(said, "reply").replace("replys", "replies")} to read.`);
      return;
    }
    const texts = coming.get(id);
    texts[line.place] += line.text;
    const node = shownTexts.get(`${id} ${line.place}`);
    if (node) keepingPlace(() => { node.textContent = visible(texts[line.place]); });
  };

  /** Whoever reads at the end of the page stays there while it grows. */
  const keepingPlace = (work) => {
    const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 90;
    work();
    if (atEnd) scrollTo({ top: document.body.scrollHeight });
  };

  // --- showing the talk -----------------------------------------------------------------------------------------

  const render = () => {
    const focused = document.activeElement?.dataset?.key;
    const columns = talk.speakers.length;
    const shown = path();
    $("talk").className = !shown.length || columns === 1 ? "" : columns > 2 ? "wider" : "wide";
    const head = JSON.stringify([talk.id, talk.speakers, talk.hidden, talk.here, talk.tally, file !== null, shown.length > 0, votes()]);
    if (head !== shownHead) $("head").replaceChildren(...(shown.length ? standing() : welcome()));
    shownHead = head;
    fill($("turns"), shown.map((turn, number) => known(turn, number)));
    $("composer").hidden = readonly() || location.hash === "#talks" || location.hash === "#votes";
    $("send").hidden = busy();
    $("stop").hidden = !busy();
    $("open-share").disabled = !shown.length || (file === null && talk.turns.some((turn) => turn.coming));
    document.title = visible(talk.title ? `${shorter(talk.title, 50)} · charforge chat` : "charforge chat");
    if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  };

  /** The section of a turn: the one that is there if nothing of it changed, so that no click or focus is lost. */
  const known = (turn, number) => {
    const beside = childrenOf(turn.parent).map((each) => each.id);
    const open = editing && editing[0] === turn.id ? editing : null;
    const about = JSON.stringify([turn, number, beside, readonly(), busy(), open, talk.id, talk.speakers]);
    if (shownTurns.get(turn.id)?.[0] !== about) shownTurns.set(turn.id, [about, section(turn, number)]);
    return shownTurns.get(turn.id)[1];
  };

  /** Put these nodes, and no others, into an element; those in their place already are not touched. */
  const fill = (parent, nodes) => {
    nodes.forEach((node, index) => {
      const there = parent.children[index];
      if (!there) parent.append(node);
      else if (there !== node) there.replaceWith(node);
    });
    while (parent.children.length > nodes.length) parent.lastElementChild.remove();
  };

  const votes = () => talk.turns.filter((turn) => turn.vote !== null).length;

  const welcome = () => {
    const single = talk.speakers.length === 1;
    const names = talk.speakers.map((each) => each.name);
    const cast = h("ul", { class: "cast" }, talk.speakers.map((each, number) =>
      h("li", { class: hue(number) }, glyph(number), h("div", {}, h("b", {}, each.name),
        h("span", { class: "fine" }, talk.hidden ? "its name is hidden" : `${KINDS[each.kind]}, on ${each.model}`)))));
    return [h("div", { class: "welcome" },
      h("h1", {}, talk.hidden ? "Which one answers better?" : `Say something to ${names.length === 1 ? names[0] : names.length === 2 ? "both" : "all of them"}.`),
      cast,
      !single && h("p", {}, h("label", { class: "check" },
        h("input", { type: "checkbox", id: "blind", key: "blind", checked: talk.blind, onchange: (event) => begin(event.target.checked) }),
        h("span", {}, "Hide the names until I ask for them: they take their places by chance, and votes are blind."))))];
  };

  const standing = () => {
    const found = [];
    if (readonly()) found.push(elsewhere());
    const hidden = talk.hidden;
    found.push(h("h1", { class: "unseen" }, `A talk with ${listed(talk.speakers.map((each) => each.name))}`));
    found.push(h("div", { class: "standing" },
      talk.speakers.map((each, number) => h("span", { class: `who ${hue(number)}` }, glyph(number),
        h("span", {}, each.name, talk.blind && !hidden && h("span", { class: "fine" }, ` was ${each.letter}`)))),
      hidden && h("p", { class: "fine" }, `Names are hidden. ${votes() ? many(votes(), "vote") : "No vote"} so far.`),
      hidden && file === null && h("button", { type: "button", class: "push", key: "reveal", onclick: reveal }, "Show the names")));
    const counted = [["unseen", "Blind"], ["open", "With names shown"]].flatMap(([name, title]) => (talk.tally?.[name] ?? []).map((each) =>
      h("p", { class: "fine" }, `${title}: ${each.first} ${each.wins}, ${each.second} ${each.losses}, neither ${each.ties}. `,
        `The share of ${each.first} is ${estimate(each)}; ${each.why}.`)));
    if (counted.length) found.push(h("details", { class: "fine" }, h("summary", {}, `Votes in this talk: ${votes()}`), counted));
    return found;
  };

  const elsewhere = () => {
    const note = h("div", { class: "note" });
    if (talk.here) {
      note.append(h("p", {}, "This talk comes from a file. All of its speakers are here."),
        h("button", { type: "button", key: "keep", onclick: keep }, "Go on with it"));
    } else {
      note.append(h("p", {}, "To be read only: not all of its speakers are here."));
      if (talk.command) note.append(h("p", { class: "fine" }, "To go on with it, where they are known:"), h("pre", { tabindex: "0" }, talk.command));
    }
    return note;
  };

  const keep = doing(async () => {
    const view = await ask("/api/files/keep", { text: file });
    file = null;
    show(view);
    place();
    $("message").focus();
  });

  const section = (turn, number) => {
    const beside = childrenOf(turn.parent);
    const index = beside.indexOf(turn);
    const isEditing = editing && editing[0] === turn.id && editing[1] === null;
    const free = !readonly() && !busy();
    const acts = h("div", { class: "acts" },
      beside.length > 1 && h("span", { class: "branches", role: "group", "aria-label": "Branches" },
        h("button", { type: "button", class: "quiet", key: `${turn.parent} back`, "aria-label": "The branch before", disabled: index === 0, onclick: () => move(turn.id, -1) }, "‹"),
        h("span", {}, `${index + 1}/${beside.length}`),
        h("button", { type: "button", class: "quiet", key: `${turn.parent} on`, "aria-label": "The branch after", disabled: index === beside.length - 1, onclick: () => move(turn.id, 1) }, "›")),
      free && h("button", { type: "button", class: "quiet", key: `${turn.id} edit`, onclick: () => edit(turn.id, null) }, "Edit"),
      free && h("button", { type: "button", class: "quiet", key: `${turn.id} again`, onclick: () => again(turn.id) }, "Retry"),
      h("button", { type: "button", class: "quiet", key: `${turn.id} copy`, onclick: () => copy(turn.text) }, "Copy"),
      h("span", { class: "fine" }, how(turn)));
    return h("section", { class: "turn", "aria-label": `Turn ${number + 1}` },
      h("h2", { class: turn.kind === "base" ? "said document" : "said" }, turn.text),
      isEditing ? editor(turn.text, "Your message", "Send", (text) => send(text, turn.parent, { kind: turn.kind, system: turn.system, prefill: turn.prefill })) : acts,
      h("div", { class: "replies" }, talk.speakers.map((_, place) => reply(turn, place, free))),
      turn.votable ? ballot(turn, number) : turn.vote !== null && !talk.hidden && h("p", { class: "fine" }, `${turn.blind ? "Blind vote" : "Vote"}: ${voted(turn.vote)}.`));
  };

  const how = (turn) => [
    turn.trait && `a probe of “${about.traits.find((trait) => trait.id === turn.trait)?.title ?? turn.trait}”`,
    notes.get(turn.id),
    turn.kind === "base" && "gone on with as a text",
    turn.system && `system message: “${shorter(turn.system.replace(/\s+/g, " "), 60)}”`,
    turn.temperature !== about.temperature && `temperature ${turn.temperature}`,
  ].filter(Boolean).join(" · ");

  const reply = (turn, place, free) => {
    const found = turn.replies[place];
    const best = turn.vote?.includes(place) && turn.vote.length < talk.speakers.length;
    const isEditing = editing && editing[0] === turn.id && editing[1] === place;
    const text = h("span", {}, found ? found.text : coming.get(turn.id)?.[place] ?? "");
    if (!found) shownTexts.set(`${turn.id} ${place}`, text);
    const notes = !found ? (turn.coming ? [] : ["no reply came"]) : [
      found.finish !== "stop" && ENDS[found.finish] + (found.why ? `: ${found.why}` : ""),
      found.written && "written by a person",
      found.tokens !== null && many(found.tokens, "token"),
    ].filter(Boolean);
    const markers = Object.entries(found?.markers ?? {});
    return h("article", { class: `reply ${hue(place)}${best ? " best" : ""}`, "aria-label": nameOf(place), "aria-busy": found ? null : "true" },
      h("h3", {}, glyph(place), " ", nameOf(place)),
      isEditing
        ? editor(found.text, `What ${nameOf(place)} said`, "Keep as a branch", (words) => rewrite(turn.id, place, words))
        : h("p", { class: !found && turn.coming ? "text waiting" : "text" }, turn.prefill && h("span", { class: "prefill" }, turn.prefill), text),
      markers.length > 0 && h("ul", { class: "markers", "aria-label": "Markers" }, markers.map(([marker, shows]) =>
        h("li", { class: shows ? "yes" : "no" }, h("span", { "aria-hidden": "true" }, shows ? "✓ " : "✗ "), h("span", { class: "unseen" }, shows ? "shows: " : "does not show: "), marker))),
      (found || notes.length > 0) && h("div", { class: "acts" },
        found && h("button", { type: "button", class: "quiet", key: `${turn.id} ${place} copy`, "aria-label": `Copy what ${nameOf(place)} said`, onclick: () => copy(turn.prefill + found.text) }, "Copy"),
        found && free && h("button", { type: "button", class: "quiet", key: `${turn.id} ${place} edit`, "aria-label": `Edit what ${nameOf(place)} said`, onclick: () => edit(turn.id, place) }, "Edit"),
        h("span", { class: "fine" }, notes.join(" · "))));
  };

  const edit = (id, place) => {
    editing = [id, place];
    render();
    document.querySelector(".editor textarea").focus();
  };

  const editor = (text, label, done, then) => {
    const area = h("textarea", { "aria-label": label, rows: Math.min(14, Math.max(3, Math.ceil(text.length / 60))), value: text, maxlength: about.longest });
    const close = () => {
      const [id, place] = editing;
      editing = null;
      render();
      document.querySelector(`[data-key="${id} ${place === null ? "" : `${place} `}edit"]`)?.focus();
    };
    return h("div", {
      class: "editor",
      onkeydown: (event) => {
        if (event.key === "Escape") { event.stopPropagation(); close(); }
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) then(area.value);
      },
    }, area, h("div", {},
      h("button", { type: "button", class: "first", onclick: () => then(area.value) }, done),
      h("button", { type: "button", onclick: close }, "Cancel")));
  };

  const all = () => talk.speakers.map((_, place) => place);
  const same = (one, other) => one !== null && one.length === other.length && other.every((place) => one.includes(place));
  const voted = (best) => {
    const two = talk.speakers.length === 2;
    if (!best.length) return two ? "both bad" : "all bad";
    return best.length === talk.speakers.length ? "equally good" : `${listed(best.map(nameOf))} ${two ? "is better" : "is best"}`;
  };
  const ballot = (turn, number) => {
    const two = talk.speakers.length === 2;
    const option = (best, words, shape) => h("button", {
      type: "button", key: `${turn.id} vote ${best}`, "aria-pressed": String(same(turn.vote, best)), disabled: readonly(), onclick: () => vote(turn.id, best),
    }, shape, words);
    return h("fieldset", { class: "vote" },
      h("legend", {}, two ? "Which is better?" : "Which is best?", h("span", { class: "unseen" }, ` Turn ${number + 1}.`)),
      all().map((place) => option([place], ` ${nameOf(place)}`, h("span", { class: hue(place) }, glyph(place)))),
      option(all(), "equally good"),
      option([], two ? "both bad" : "all bad"),
      turn.vote !== null && h("span", { class: "fine" }, turn.blind ? "kept, blind" : "kept"));
  };

  const copy = doing(async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without a secure context there is no clipboard: the old way.
      const area = h("textarea", { class: "unseen", value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say("Copied.");
  });

  // --- other pages ----------------------------------------------------------------------------------------------

  const list = async () => {
    const found = await ask("/api/talks");
    $("list").replaceChildren(found.length
      ? h("ul", { class: "talks" }, found.map((each) => h("li", {},
          h("a", { href: `#talk=${each.id}` }, each.title || "(nothing)"),
          h("p", { class: "fine" }, [day(each.made), each.hidden ? `${each.speakers.length} speakers, names hidden` : listed(each.speakers),
            many(each.turns, "turn"), each.votes && many(each.votes, "vote")].filter(Boolean).join(" · ")))))
      : h("p", { class: "explain" }, "None yet."));
  };

  const forest = (each) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const part = (tag, given) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
      svg.append(node);
    };
    const x = (value) => 6 + value * 148;
    svg.setAttribute("viewBox", "0 0 160 20");
    svg.setAttribute("class", each.low <= 0.5 && each.high >= 0.5 ? "forest unclear" : "forest");
    svg.setAttribute("aria-hidden", "true");
    part("line", { class: "half", x1: x(0.5), x2: x(0.5), y1: 0, y2: 20 });
    part("line", { x1: x(each.low), x2: x(each.high), y1: 10, y2: 10 });
    part("circle", { cx: x(each.share), cy: 10, r: 4.5 });
    return svg;
  };

  const tallies = async () => {
    const found = await ask("/api/votes");
    const table = (rows, title, explain) => [h("h2", {}, title), h("p", { class: "explain" }, explain),
      rows.length ? h("div", { class: "scroll", role: "region", "aria-label": title, tabindex: "0" }, h("table", {},
        h("thead", {}, h("tr", {}, ["first", "second", "first better", "second better", "neither", "talks", "share of the first, 95% interval"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, rows.map((each) => h("tr", {},
          h("th", { scope: "row" }, each.first), h("td", {}, each.second),
          [each.wins, each.losses, each.ties, each.talks].map((count) => h("td", { class: "value" }, String(count))),
          h("td", { class: "value" }, estimate(each), each.why === null ? forest(each) : h("span", { class: "fine" }, ` ${each.why}`)))))))
        : h("p", {}, "None.")];
    $("tallies").replaceChildren(
      h("p", { class: "explain" }, "How often one was preferred to another in the talks of this store. “Neither” counts half. Intervals count each talk as one observation: who talks to a speaker for long votes often."),
      found.hidden > 0 && h("p", { class: "note" }, `${many(found.hidden, "talk")} with hidden names ${found.hidden === 1 ? "is" : "are"} not counted yet: a running count would tell who is who.`) || "",
      ...table(found.unseen, "Blind", "The person did not know whose replies they were."),
      ...table(found.open, "With names shown", "Names can sway a vote, so these are no evidence of what the replies alone are worth."));
  };

  const route = doing(async () => {
    const hash = location.hash.slice(1);
    const page = hash === "talks" || hash === "votes" ? hash : "talk";
    for (const name of ["talk", "talks", "votes"]) $(name).hidden = name !== page;
    for (const each of document.querySelectorAll(".bar nav a"))
      if (each.hash === `#${page}`) each.setAttribute("aria-current", "page");
      else each.removeAttribute("aria-current");
    if (page === "talks") await list();
    if (page === "votes") await tallies();
    const id = /^talk=([0-9a-f]{8,64})$/.exec(hash)?.[1];
    if (id && (talk.id !== id || file !== null)) await open(id);
    else if (page === "talk") place();
    $("composer").hidden = page !== "talk" || readonly();
    if (page !== "talk") scrollTo({ top: 0 });
  });

  const read = doing(async (chosen) => {
    if (!chosen) return;
    const text = await chosen.text();
    const view = await ask("/api/files", { text });
    file = text;
    history.pushState(null, "", location.pathname);
    show(view);
    await route();
    $("main").focus();
  });

  // --- sharing --------------------------------------------------------------------------------------------------

  const save = (blob, name) => {
    const anchor = h("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 60000);
  };

  const share = () => {
    const name = `talk-${talk.id}`;
    const way = (title, words, work) => h("li", {}, h("button", { type: "button", onclick: doing(work) }, title), h("span", { class: "fine" }, words));
    $("sharing").replaceChildren(...(talk.hidden
      ? [h("p", {}, "The names are hidden, and what is shared shows them."), file === null && h("p", {}, h("button", { type: "button", class: "first", onclick: async () => { await reveal(); share(); } }, "Show the names")) || ""]
      : [h("p", { class: "explain" }, "What is shared holds the whole talk, system messages and all branches included."),
        h("ul", { class: "ways" },
          file === null && way("Page (HTML)", "one file that opens anywhere, and goes on here", async () => save(new Blob([await (await request(`${link()}/page?turn=${leaf}`)).text()], { type: "text/html" }), `${name}.html`)),
          file === null && way("Data (JSON Lines)", "the talk as it is kept: for scripts", async () => save(new Blob([await (await request(`${link()}/lines`)).text()], { type: "application/jsonl" }), `${name}.jsonl`)),
          way("Picture (PNG)", "this branch, as an image", async () => {
            const found = await pictures();
            found.forEach((blob, number) => save(blob, found.length > 1 ? `${name}-${number + 1}.png` : `${name}.png`));
            say(found.length > 1 ? `${found.length} pictures are saved.` : "The picture is saved.");
            $("several").hidden = found.length < 2;
            $("several").textContent = `It is too long for one picture: these are ${found.length}. The browser may ask whether it may save them all.`;
          })),
        h("p", { class: "note", id: "several", hidden: true }),
        h("p", { class: "fine" }, "To go on with the page or the data:"),
        h("pre", { tabindex: "0" }, talk.command)]));
    if (!$("share").open) $("share").showModal();
  };

  // The tallest canvas that browsers agree on, in pixels.
  const TALLEST = 16000;

  /** The branch as pictures, PNG: one, or as many as it takes. */
  const pictures = async () => {
    const styles = getComputedStyle(document.documentElement);
    const token = (name) => styles.getPropertyValue(`--${name}`).trim();
    const hues = ["arm-final", "arm-prompted", "arm-middle", "arm-base"].map(token);
    const [sans, serif] = [token("sans"), token("serif")];
    const columns = talk.speakers.length;
    const [margin, gap] = [56, 40];
    const column = columns === 1 ? 720 : columns === 2 ? 540 : 400;
    const width = 2 * margin + columns * column + (columns - 1) * gap;
    const measure = document.createElement("canvas").getContext("2d");
    const ops = []; // [x, y, text, font, colour], or [x, y, width, colour] for a rule
    const wrap = (text, font, most) => {
      measure.font = font;
      const lines = [];
      for (const given of visible(text).split("\n")) {
        let line = "";
        for (let word of given.split(/(?<= )/u)) {
          if (line && measure.measureText(line + word.trimEnd()).width > most) {
            lines.push(line.trimEnd());
            line = "";
          }
          while (measure.measureText(word.trimEnd()).width > most) {
            const letters = [...word];
            let count = letters.length;
            while (count > 1 && measure.measureText(letters.slice(0, count).join("")).width > most) count = Math.min(count - 1, Math.ceil(count * 0.9));
            lines.push(letters.slice(0, count).join(""));
            word = letters.slice(count).join("");
          }
          line += word;
        }
        lines.push(line.trimEnd());
      }
      return lines;
    };
    const write = (text, x, y, most, font, height, colour) => {
      for (const line of wrap(text, font, most)) {
        ops.push([x, y, line, font, colour]);
        y += height;
      }
      return y;
    };
    const [ink, muted, line] = [token("ink"), token("muted"), token("line")];
    let y = margin + 10;
    const inner = width - 2 * margin;
    y = write(`A talk with ${listed(talk.speakers.map((each) => each.name))}`, margin, y, inner, `400 34px ${serif}`, 42, ink) + 4;
    y = write(`${day(talk.made)} UTC · charforge ${about.version}`, margin, y, inner, `15px ${sans}`, 22, muted);
    for (const each of talk.speakers) y = write(`${each.reference}: ${KINDS[each.kind]}, on ${each.model}`, margin, y, inner, `15px ${sans}`, 22, muted);
    y += 26;
    let settings = "";
    for (const turn of path()) {
      ops.push([margin, y - 14, inner, line]);
      y += 22;
      const drawn = `Temperature ${turn.temperature}, at most ${turn.max_tokens} tokens`;
      if (drawn !== settings) y = write(drawn, margin, y, inner, `14px ${sans}`, 21, muted) + 6;
      settings = drawn;
      if (turn.system) y = write(`System message: ${turn.system}`, margin, y, Math.min(inner, 760), `14px ${sans}`, 21, muted) + 10;
      y = write(turn.text, margin, y + 6, Math.min(inner, 760), `400 23px ${serif}`, 33, ink) + 8;
      let lowest = y;
      talk.speakers.forEach((each, place) => {
        const x = margin + place * (column + gap);
        let down = y + 6;
        ops.push([x, down - 4, column, hues[place % hues.length], 2]);
        down += 24;
        const best = turn.vote?.includes(place) && turn.vote.length < columns;
        ops.push([x, down, GLYPHS[place % GLYPHS.length], `600 15px ${sans}`, hues[place % hues.length]]);
        down = write(each.name + (best ? " ✓ preferred" : ""), x + 22, down, column - 22, `600 15px ${sans}`, 22, ink) + 6;
        const found = turn.replies[place];
        down = write(turn.prefill + (found?.text || "(no reply)"), x, down, column, `17px ${sans}`, 27, found?.text ? ink : muted) + 2;
        const notes = found ? [ENDS[found.finish], found.written && "written by a person"].filter(Boolean).join(" · ") : "";
        if (notes) down = write(notes, x, down, column, `14px ${sans}`, 21, muted);
        lowest = Math.max(lowest, down);
      });
      y = lowest + 30;
    }
    const full = y + 10;
    const scale = full * 2 <= TALLEST && width * 2 <= 5000 ? 2 : 1;
    const most = TALLEST - 2 * margin;
    const count = full <= TALLEST ? 1 : Math.ceil(full / most);
    const found = [];
    for (let number = 0; number < count; number += 1) {
      // A line stands whole in the picture in which its foot is.
      const [from, to] = count === 1 ? [0, Infinity] : [number * most, (number + 1) * most];
      const height = count === 1 ? full : Math.min(full - from, most) + 2 * margin;
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [Math.ceil(width * scale), Math.ceil(height * scale)];
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      pen.fillStyle = token("paper");
      pen.fillRect(0, 0, width, height);
      pen.translate(0, count === 1 ? 0 : margin - from);
      for (const [x, top, what, ...more] of ops) {
        if (top < from || top >= to) continue;
        if (typeof what === "number") {
          pen.fillStyle = more[0];
          pen.fillRect(x, top, what, more[1] ?? 1);
        } else {
          [pen.font, pen.fillStyle] = more;
          pen.fillText(what, x, top);
        }
      }
      if (count > 1) {
        [pen.font, pen.fillStyle] = [`15px ${sans}`, muted];
        pen.fillText(`${number + 1} of ${count}`, margin, from + height - margin - 20);
      }
      found.push(await new Promise((done) => canvas.toBlob(done, "image/png")));
    }
    return found;
  };

  // --- controls -------------------------------------------------------------------------------------------------

  const grow = () => {
    const area = $("message");
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  const changed = () => {
    const found = [
      $("system").value && "system message",
      $("prefill").value && "beginning",
      Number($("temperature").value) !== about.temperature && `temperature ${$("temperature").value}`,
      Number($("tokens").value) !== about.max_tokens && `${$("tokens").value} tokens`,
      $("kind").value === "base" && "a text to go on with",
    ].filter(Boolean);
    $("changed").textContent = found.length ? visible(`: ${found.join(", ")}`) : "";
    $("message").placeholder = $("kind").value === "base" ? "The beginning of a text" : "Say something";
  };

  const keys = (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.("input, textarea, select");
    if (event.key === "Escape") {
      if (busy()) stop();
      else if (field) field.blur();
      return;
    }
    if (!(event.altKey || ($("single").checked && !field))) return;
    if (event.code === "Slash" && !$("composer").hidden) { event.preventDefault(); $("message").focus(); }
    if (!talk || $("talk").hidden || leaf === null) return;
    // By place on the keyboard: with Alt, some systems make other characters of them.
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
    const turn = path().at(-1);
    const choose = (best) => {
      event.preventDefault();
      if (turn.votable && !readonly()) vote(turn.id, best);
    };
    if (digit === "0") choose(all());
    else if (digit === "9" && talk.speakers.length < 9) choose([]);
    else if (digit && Number(digit) <= talk.speakers.length) choose([Number(digit) - 1]);
    else if (event.code === "KeyR") { event.preventDefault(); again(turn.id); }
    else if (event.code === "Comma") { event.preventDefault(); move(turn.id, -1); }
    else if (event.code === "Period") { event.preventDefault(); move(turn.id, 1); }
  };

  const start = doing(async () => {
    about = await ask("/api/about");
    // The token is a cookie now, and need not stand in the address.
    if (location.search) history.replaceState(null, "", location.pathname + location.hash);
    $("tokens").max = about.most_tokens;
    $("message").maxLength = about.longest;
    $("system").maxLength = about.longest;
    $("prefill").maxLength = about.longest;
    $("trait").replaceChildren(...about.traits.map((trait) => h("option", { value: trait.id }, trait.title)));
    $("probing").hidden = !about.traits.length;
    $("single").checked = localStorage.getItem("single keys") === "yes";
    const id = /^#talk=([0-9a-f]{8,64})$/.exec(location.hash)?.[1] ?? about.first;
    if (about.opened) {
      file = "";
      show(about.opened);
    } else {
      try {
        if (!id) throw new Problem("");
        await open(id);
      } catch (error) {
        show(await ask("/api/talks", { blind: about.blind }));
        if (error.message) complain(error.message);
      }
      if (location.hash !== "#talks" && location.hash !== "#votes") place();
    }
    $("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
    $("message").addEventListener("keydown", (event) => {
      const touch = matchMedia("(pointer: coarse)").matches;
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch || $("kind").value === "base") return;
      event.preventDefault();
      send();
    });
    $("message").addEventListener("input", grow);
    for (const name of ["system", "prefill", "temperature", "tokens", "kind"]) $(name).addEventListener("input", changed);
    $("single").addEventListener("change", (event) => localStorage.setItem("single keys", event.target.checked ? "yes" : "no"));
    $("stop").addEventListener("click", stop);
    $("probe").addEventListener("click", async () => { $("probing").open = false; await send("", leaf, { trait: $("trait").value, kind: "chat" }); });
    $("new").addEventListener("click", () => begin(talk.blind && file === null));
    $("home").addEventListener("click", (event) => { event.preventDefault(); history.pushState(null, "", talk.kept && file === null ? `#talk=${talk.id}` : location.pathname); route(); });
    $("open-share").addEventListener("click", doing(share));
    $("open-keys").addEventListener("click", () => $("keys").showModal());
    $("pick").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", async (event) => { await read(event.target.files[0]); event.target.value = ""; });
    addEventListener("hashchange", route);
    addEventListener("popstate", route);
    addEventListener("keydown", keys);
    document.addEventListener("visibilitychange", seen);
    grow();
    await route();
    if (!$("composer").hidden && matchMedia("(pointer: fine)").matches) $("message").focus();
    document.documentElement.dataset.ready = "yes";
  });
  start();
})();
