"use strict";
// Copies the command of a tile. Without this script the command can still be
// selected: one click takes all of it.
const told = document.getElementById("status");
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const command = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(command);
      told.textContent = `Copied: ${command}`;
    } catch {
      told.textContent = `Cannot reach the clipboard; copy this: ${command}`;
    }
  });
}
