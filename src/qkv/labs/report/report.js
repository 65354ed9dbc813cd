"use strict";
(() => {
  const root = document.documentElement;
  const recall = (name) => { try { return localStorage.getItem("qkv-" + name); } catch { return null; } };
  const keep = (name, value) => { try { localStorage.setItem("qkv-" + name, value); } catch { /* a page opened from disk may not keep anything */ } };
  const asked = new URLSearchParams(location.hash.slice(1));
  const speak = (language) => {
    root.dataset.lang = language;
    root.lang = language;
    document.getElementById("language").textContent = language === "en" ? "中文" : "English";
  };
  const paint = (theme) => { root.dataset.theme = theme; };
  // Links carry the choice on, where a page can keep none.
  const carry = () => {
    for (const link of document.querySelectorAll('a[href*=".html"]')) {
      link.hash = "lang=" + root.dataset.lang + "&theme=" + root.dataset.theme;
    }
  };
  speak(asked.get("lang") ?? recall("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  paint(asked.get("theme") ?? recall("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  carry();
  document.getElementById("language").addEventListener("click", () => {
    speak(root.dataset.lang === "en" ? "zh" : "en");
    keep("language", root.dataset.lang);
    carry();
  });
  document.getElementById("theme").addEventListener("click", () => {
    paint(root.dataset.theme === "dark" ? "light" : "dark");
    keep("theme", root.dataset.theme);
    carry();
  });
  // A closed part is not printed.
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
})();
