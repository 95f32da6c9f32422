"use strict";
(async () => {
  const PAGE = 50;
  const find = (id) => document.getElementById(id);
  const list = find("samples"), shown = find("shown"), words = find("words");

  // --- data: the index at once, texts block by block ------------------------------------------
  async function unpack(id) {
    const bytes = Uint8Array.from(atob(find(id).textContent.trim()), (c) => c.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(plain).text());
  }
  if (typeof DecompressionStream === "undefined") {
    shown.textContent = "This browser can't unpack the samples; take one from 2023 or later.";
    return;
  }
  const all = await unpack("index");
  const count = all.id.length;
  const blocks = new Map();
  function text(place) {
    const number = Math.floor(place / SETTINGS.block);
    if (!blocks.has(number)) blocks.set(number, unpack(`b${number}`));
    return blocks.get(number).then((block) => block[place % SETTINGS.block]);
  }
  const name = (kind, place) => all[{ family: "families", dimension: "dimensions", source: "sources", outcome: "outcomes" }[kind]][all[kind][place]];
  const label = (value) => all.words[value] || value;
  const place = new Map(all.id.map((id, number) => [id, number]));
  function last(row) {
    const history = all.history[row];
    return history[history.length - 2] / history[history.length - 1];
  }

  // --- corrections ----------------------------------------------------------------------------
  const KEY = `pelican-corrections:${SETTINGS.run}`;
  const fixes = new Map();
  try {
    for (const [id, fix] of JSON.parse(localStorage.getItem(KEY) || "[]")) fixes.set(id, fix);
  } catch { /* a sandboxed frame has no storage: corrections last as long as the page */ }
  // Of samples that this page lacks: lines as they were loaded, by sample and action.
  const others = new Map();
  try {
    for (const [id, told] of JSON.parse(localStorage.getItem(`${KEY}:others`) || "[]")) others.set(id, told);
  } catch { /* as above */ }
  function keep(id, fix) {
    if (fix.drop || fix.answer || fix.dimension) fixes.set(id, fix);
    else fixes.delete(id);
    try { localStorage.setItem(KEY, JSON.stringify([...fixes])); } catch { /* as above */ }
    tell();
  }
  function lines() {
    const found = [];
    for (const [id, fix] of fixes) {
      const note = fix.note ? { note: fix.note } : {};
      if (fix.drop) found.push({ id, action: "drop", ...note });
      else {
        if (fix.answer) found.push({ id, action: "relabel", answer: fix.answer, ...note });
        if (fix.dimension) found.push({ id, action: "redimension", dimension: fix.dimension, ...note });
      }
    }
    const kept = [...others.values()].flatMap((told) => Object.values(told));
    return [...found.map((line) => JSON.stringify(line)), ...kept].map((line) => line + "\n").join("");
  }
  function tell() {
    const save = find("save"), size = fixes.size + others.size;
    save.disabled = !size;
    save.textContent = size ? `Download ${size} correction${size > 1 ? "s" : ""}` : "No corrections yet";
    if (others.size) save.textContent += ` (${others.size} of samples not here)`;
  }
  async function load(file) {
    let read = 0, elsewhere = 0, broken = 0;
    for (const line of (await file.text()).split("\n").filter((l) => l.trim())) {
      try {
        const { id, action, answer, dimension, note = "" } = JSON.parse(line);
        if (!id || !["drop", "relabel", "redimension"].includes(action)) throw new Error("no correction");
        if (!place.has(id)) {
          others.set(id, { ...others.get(id), [action]: line.trim() });
          elsewhere += 1;
          continue;
        }
        const fix = { ...(fixes.get(id) || {}), note };
        if (action === "drop") fix.drop = true;
        else if (action === "relabel") fix.answer = answer;
        else fix.dimension = dimension;
        keep(id, fix);
        read += 1;
      } catch { broken += 1; }
    }
    try { localStorage.setItem(`${KEY}:others`, JSON.stringify([...others])); } catch { /* as above */ }
    tell();
    await apply();
    const said = [`${read} corrections read`];
    if (elsewhere) said.push(`${elsewhere} of samples that are not on this page kept for the download`);
    if (broken) said.push(`${broken} lines can't be read and are left out`);
    shown.textContent = said.join(", ");
  }
  function answerField(json, fix) {
    const now = fix.answer || (json ? JSON.parse(json) : null);
    let field;
    const options = now && now.kind === "choice" ? now.options.map((o, n) => [String.fromCharCode(65 + n), o])
      : now && now.kind === "yes_no" ? [["true", "yes"], ["false", "no"]] : null;
    if (options) {
      field = document.createElement("select");
      const was = JSON.parse(json || JSON.stringify(now));
      const right = String(now.kind === "choice" ? was.answer : was.value);
      for (const [value, words] of options) {
        const mark = value === right ? " (as it is)" : "";
        field.append(new Option(now.kind === "choice" ? `${value}. ${words}${mark}` : words + mark, value === right ? "" : value));
      }
      if (fix.answer) field.value = String(now.kind === "choice" ? now.answer : now.value);
      field.read = () => !field.value ? null : now.kind === "choice" ? { ...was, answer: field.value } : { ...was, value: field.value === "true" };
    } else {
      field = document.createElement("textarea");
      field.rows = 2;
      field.spellcheck = false;
      field.value = now ? JSON.stringify(now) : "";
      field.placeholder = "JSON of an answer, as in docs/data.md";
      const was = json ? JSON.stringify(JSON.parse(json)) : "";
      field.read = () => {
        if (!field.value.trim()) return null;
        const value = JSON.parse(field.value);
        if (typeof value !== "object" || value === null || !value.kind) throw new Error("an answer is an object with a kind");
        return JSON.stringify(value) === was ? null : value;
      };
    }
    field.name = "answer";
    return field;
  }
  function correctionForm(row, json) {
    const id = all.id[row], fix = fixes.get(id) || {};
    const form = find("correct").content.firstElementChild.cloneNode(true);
    const field = answerField(json, fix);
    form.querySelector("[name=slot]").replaceWith(field);
    form.drop.checked = Boolean(fix.drop);
    form.dimension.value = fix.dimension || "";
    form.note.value = fix.note || "";
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      const alert = form.querySelector("[role=alert]");
      let answer = null;
      try {
        answer = field.read();
        alert.textContent = "";
      } catch (error) { alert.textContent = `The answer is not kept: ${error.message}`; }
      const dimension = form.dimension.value === name("dimension", row) ? "" : form.dimension.value;
      keep(id, { drop: form.drop.checked, answer, dimension, note: form.note.value.trim() });
    });
    return form;
  }

  // --- the list -------------------------------------------------------------------------------
  let rows = [], page = 0, turn = 0;
  const picks = [...document.querySelectorAll("#filters [data-key]")];
  async function apply() {
    const mine = ++turn;
    const wanted = picks.filter((p) => p.value).map((p) => [p.dataset.key, p.value]);
    let found = [];
    for (let row = 0; row < count; row += 1) {
      if (wanted.every(([key, value]) => key === "fixed"
        ? (value === "here" ? fixes.has(all.id[row]) : all.corrected[row]) : name(key, row) === value)) found.push(row);
    }
    const query = words.value.trim().toLowerCase();
    if (query) {
      const hits = [];
      for (const row of found) {
        const one = await text(row);
        if (mine !== turn) return;
        if (`${all.id[row]}\n${one.q}\n${one.a}`.toLowerCase().includes(query)) hits.push(row);
      }
      found = hits;
    }
    const order = find("order").value;
    if (order === "id") found.sort((a, b) => (all.id[a] < all.id[b] ? -1 : 1));
    if (order === "hard") found.sort((a, b) => last(a) - last(b) || a - b);
    for (const chip of document.querySelectorAll(".chips button"))
      chip.setAttribute("aria-pressed", String(picks.some((p) => p.dataset.key === "outcome" && p.value === chip.dataset.outcome)));
    rows = found;
    page = 0;
    await show();
  }
  async function show() {
    const mine = turn, pages = Math.max(1, Math.ceil(rows.length / PAGE));
    page = Math.max(0, Math.min(pages - 1, page));
    const here = rows.slice(page * PAGE, (page + 1) * PAGE);
    const texts = await Promise.all(here.map(text));
    if (mine !== turn) return;
    list.replaceChildren(...here.map((row, n) => item(row, texts[n])));
    list.start = page * PAGE + 1;
    const number = (n) => n.toLocaleString("en");
    shown.textContent = `${number(rows.length)} of ${number(count)} samples`;
    find("page").textContent = rows.length ? `${number(page * PAGE + 1)} to ${number(page * PAGE + here.length)}` : "none";
    for (const button of document.querySelectorAll("[data-go]"))
      button.disabled = /first|back/.test(button.dataset.go) ? page === 0 : page === pages - 1;
    find("csv").disabled = !rows.length;
  }
  function spark(row) {
    const history = all.history[row], at = new Map();
    for (let n = 0; n < history.length; n += 3) at.set(history[n], [history[n + 1], history[n + 2]]);
    const said = [], bars = all.moments.map((moment, n) => {
      const bar = document.createElement("i");
      if (!at.has(n)) { bar.className = "none"; return bar; }
      const [good, of] = at.get(n);
      bar.style.height = `${Math.max(6, Math.round((100 * good) / of))}%`;
      if (!good) bar.className = "zero";
      said.push(`${moment}: ${good} of ${of}`);
      bar.title = said[said.length - 1];
      return bar;
    });
    return [bars, said];
  }
  function item(row, one) {
    const element = find("sample").content.firstElementChild.cloneNode(true);
    const details = element.querySelector("details");
    const [bars, said] = spark(row);
    details.querySelector(".spark").append(...bars);
    details.querySelector(".spark").setAttribute("aria-label", said.join("; "));
    details.querySelector(".meta").textContent = `${label(name("family", row))} · ${label(name("dimension", row))} · ${all.id[row]}`;
    details.querySelector(".q").textContent = one.q || all.id[row];
    const chip = details.querySelector(".chip");
    chip.classList.add(`o-${name("outcome", row)}`);
    chip.textContent = label(name("outcome", row));
    details.querySelector(".why").textContent = (fixes.has(all.id[row]) ? "corrected here. " : "") + all.why[row];
    details.addEventListener("toggle", () => {
      const body = details.querySelector(".body");
      if (details.open && !body.childElementCount) body.append(...evidence(row, one, said));
    });
    return element;
  }
  function part(tag, css, words) {
    const element = document.createElement(tag);
    element.className = css;
    element.textContent = words;
    return element;
  }
  function evidence(row, one, said) {
    const frames = part("div", "frames", ""), right = part("div", "", "");
    const packed = find(`i${row}`);
    const uris = packed ? packed.textContent.trim().split(" ").filter(Boolean) : [];
    uris.forEach((uri, n) => {
      const image = document.createElement("img");
      image.src = uri;
      image.alt = `frame ${n + 1} of ${uris.length}`;
      frames.append(image);
    });
    const history = part("ul", "history", "");
    history.append(...said.map((words) => part("li", "", words)));
    right.append(history);
    if (one.a) right.append(part("p", "right", `Right answer: ${one.a}`));
    for (const [when, good, reason, completion] of one.x) {
      const attempt = part("div", `attempt ${good ? "ok" : "no"}`, "");
      attempt.append(part("div", "who", when + (good ? " · right" : reason ? ` · ${reason}` : "")), part("pre", "", completion));
      right.append(attempt);
    }
    right.append(correctionForm(row, one.j));
    return uris.length ? [frames, right] : [right];
  }

  // --- export, keys, wiring -------------------------------------------------------------------
  function download(file, kind, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: kind }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  async function csv() {
    const cell = (value) => {
      const words = String(value ?? "");
      const safe = typeof value === "string" && /^'*[=+\-@\t\r]/.test(words) ? `'${words}` : words; // a spreadsheet would compute it
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const table = [["id", "family", "dimension", "source", "outcome", "interest", "why", ...all.moments, "question", "answer"]];
    for (const row of rows) {
      const one = await text(row), rates = all.moments.map(() => ""), history = all.history[row];
      for (let n = 0; n < history.length; n += 3) rates[history[n]] = history[n + 1] / history[n + 2];
      table.push([all.id[row], name("family", row), name("dimension", row), name("source", row), label(name("outcome", row)), all.interest[row], all.why[row], ...rates, one.q, one.a]);
    }
    return table.map((line) => line.map(cell).join(",") + "\r\n").join("");
  }
  find("csv").addEventListener("click", async () => download(`${SETTINGS.run}-ledger.csv`, "text/csv", await csv()));
  find("save").addEventListener("click", () => download(`${SETTINGS.run}-corrections.jsonl`, "application/jsonl", lines()));
  find("load").addEventListener("change", (event) => event.target.files[0] && load(event.target.files[0]));
  let wait = 0;
  words.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(apply, 200); });
  [...picks, find("order")].forEach((pick) => pick.addEventListener("input", apply));
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const chip of document.querySelectorAll(".chips button")) chip.addEventListener("click", () => {
    const pick = picks.find((p) => p.dataset.key === "outcome");
    pick.value = pick.value === chip.dataset.outcome ? "" : chip.dataset.outcome;
    apply();
  });
  async function go(where) {
    const to = { first: 0, back: page - 1, on: page + 1, last: Infinity }[where];
    page = to;
    await show();
    find("filters").scrollIntoView({ block: "start" });
  }
  for (const button of document.querySelectorAll("[data-go]")) button.addEventListener("click", () => go(button.dataset.go));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const turnPage = { n: "on", p: "back" }[event.key], step = { j: 1, k: -1 }[event.key];
    if (event.key === "/") { words.focus(); event.preventDefault(); }
    if (turnPage && !document.querySelector(`[data-go=${turnPage}]`).disabled) go(turnPage);
    if (!step) return;
    const items = [...list.querySelectorAll("summary")];
    if (!items.length) return;
    const now = items.findIndex((one) => one.parentElement.contains(document.activeElement));
    const next = items[Math.max(0, Math.min(items.length - 1, now < 0 ? 0 : now + step))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
    event.preventDefault();
  });
  tell();
  await apply();
  document.body.dataset.ready = "yes";
})();
