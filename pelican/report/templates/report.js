"use strict";
(() => {
  // The weakness ledger: filters, and j / k to walk through the cases.
  const cases = [...document.querySelectorAll(".case")];
  const picks = [...document.querySelectorAll(".filters [data-key]")];
  const output = document.querySelector(".filters output");
  const shown = () => cases.filter((one) => !one.hidden);
  function apply() {
    for (const one of cases) {
      one.hidden = !picks.every((pick) => {
        const wanted = pick.value.trim().toLowerCase();
        if (!wanted) return true;
        const has = one.dataset[pick.dataset.key] || "";
        return pick.type === "search" ? one.textContent.toLowerCase().includes(wanted) : has === wanted;
      });
    }
    if (output) output.textContent = `${shown().length} of ${cases.length} shown`;
  }
  picks.forEach((pick) => pick.addEventListener("input", apply));
  if (picks.length) apply();
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const step = { j: 1, k: -1 }[event.key];
    const list = shown();
    if (!step || !list.length) return;
    const now = list.findIndex((one) => one.contains(document.activeElement));
    const next = list[Math.max(0, Math.min(list.length - 1, now < 0 ? 0 : now + step))];
    next.querySelector("summary").focus();
    next.scrollIntoView({ block: "nearest" });
    event.preventDefault();
  });

  // The section that is on the screen, in the bar at the top.
  const links = [...document.querySelectorAll("nav a")];
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links) {
        if (link.hash === `#${entry.target.id}`) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("section[id]").forEach((section) => watch.observe(section));
})();
