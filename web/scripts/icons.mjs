// Draws the PNG icons from public/icon.svg by Debian's Chromium: `npm run icons -w @satchel/web`. The results are committed.
import { readFile, writeFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const pub = new URL("../public/", import.meta.url);
const svg = await readFile(new URL("icon.svg", pub), "utf8");
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
try {
  for (const [name, size, maskable] of [["icon-192.png", 192, false], ["icon-512.png", 512, false], ["icon-maskable-512.png", 512, true]]) {
    const page = await browser.newPage({ viewport: { width: size, height: size } });
    // A maskable icon fills its square; what matters stays within the circle that every platform keeps.
    const drawing = maskable ? svg.replace('rx="112"', "") : svg;
    await page.setContent(`<style>html,body{margin:0;background:transparent}svg{display:block;width:${size}px;height:${size}px}</style>${drawing}`);
    await writeFile(new URL(name, pub), await page.screenshot({ omitBackground: true }));
    await page.close();
  }
} finally {
  await browser.close();
}
