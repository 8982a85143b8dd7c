// Chooses the theme before anything is drawn; without a choice the system's counts.
(function () {
  "use strict";
  try {
    const chosen = localStorage.getItem("regrow.theme");
    if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  } catch (_) {
    // Storage may be forbidden; the system's theme is as good.
  }
})();
