// Shows the checks that the reader asks for. Without it the page shows all of them, and no form.
(() => {
  const form = document.querySelector("form.search");
  const checks = [...document.querySelectorAll(".acceptance [data-outcome]")];
  const groups = [...document.querySelectorAll(".acceptance section, .acceptance details")].filter((group) => group.querySelector("[data-outcome]"));
  const apply = () => {
    const text = form.elements.text.value.trim().toLowerCase();
    const wanted = [...form.querySelectorAll("[name=outcome]:checked")].map((box) => box.value);
    for (const check of checks) {
      const module = check.closest("section").id;
      check.hidden = !wanted.includes(check.dataset.outcome) || !`${module} ${check.textContent}`.toLowerCase().includes(text);
    }
    for (const group of groups) {
      group.hidden = !group.querySelector("[data-outcome]:not([hidden])");
      if (text && group.tagName === "DETAILS") group.open = true;
    }
    const each = checks.filter((check) => check.matches("tbody, #not-covered tr"));
    form.querySelector("output").textContent = `${each.filter((check) => !check.hidden).length} of ${each.length} checks`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
  // on paper nothing can be opened
  const closed = [...document.querySelectorAll("details:not([open])")];
  addEventListener("beforeprint", () => closed.forEach((each) => each.setAttribute("open", "")));
  addEventListener("afterprint", () => closed.forEach((each) => each.removeAttribute("open")));
})();
