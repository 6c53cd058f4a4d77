// Builds the page: data, sections, theme, width.

const RUN = JSON.parse(byId("run-data").textContent);
const EXPLORER = JSON.parse(byId("explorer-data").textContent);
const SHARES = new Set(RUN.shares);
const SCORERS = [...new Set(RUN.results.map((r) => r.label))];

function chooseBenchmark(index) {
  byId("benchmark-body").replaceChildren(...benchmarkPanels(RUN.benchmarks[index], explore));
  [...byId("benchmark-choice").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
  drawAll();
}

function explore(filters) {
  explorer.filter(filters);
  byId("judgments").scrollIntoView();
  explorer.focus();
}

// The theme follows the system until the button is used.
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (darkSystem.matches ? "dark" : "light")) === "dark";

function labelThemeButton() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Change to the light theme" : "Change to the dark theme");
}

byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  labelThemeButton();
});
darkSystem.addEventListener("change", labelThemeButton);
labelThemeButton();

byId("summary-body").replaceChildren(...summaryPart());
byId("scores-body").replaceChildren(...scoresPart());
byId("versions-body").replaceChildren(...versionsPart().flat());
byId("benchmark-choice").replaceChildren(
  ...RUN.benchmarks.map((b, i) => el("button", { type: "button", on: { click: () => chooseBenchmark(i) } }, b.title)),
);
const explorer = makeExplorer(byId("explorer"));
if (RUN.benchmarks.length) chooseBenchmark(0);
addEventListener("resize", debounce(drawAll, 150));
document.documentElement.dataset.ready = "yes";
