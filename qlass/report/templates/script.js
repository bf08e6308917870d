"use strict";
// Extras only: the page reads without this script.
document.querySelectorAll(".buttons").forEach((bar) => {
  const tree = bar.nextElementSibling;
  const parts = [...tree.querySelectorAll("details.seg")];
  const best = parts.filter((part) => part.open);
  bar.hidden = false;
  bar.addEventListener("click", (event) => {
    const mode = event.target.dataset.fold;
    if (!mode) return;
    parts.forEach((part) => { part.open = mode === "open" || (mode === "best" && best.includes(part)); });
  });
});
// Older browsers do not open a folded ancestor when a link leads inside it.
addEventListener("hashchange", () => {
  const target = document.getElementById(location.hash.slice(1));
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (target) target.scrollIntoView({ block: "center" });
});
