// The data that the page holds, and the elements that show it.

const page = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const at = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
