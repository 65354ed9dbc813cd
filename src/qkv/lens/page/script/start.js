// What a page that is a file does once it is read.

begin().catch((error) => {
  at("broken").textContent = text().broken + error.message;
  at("broken").hidden = false;
  throw error;
});
