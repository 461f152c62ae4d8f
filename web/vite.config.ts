import { fileURLToPath } from "node:url";
import vue from "@vitejs/plugin-vue";
import { VantResolver } from "@vant/auto-import-resolver";
import components from "unplugin-vue-components/vite";
import { defaultClientConditions, defineConfig, type Plugin } from "vite";
import { VitePWA } from "vite-plugin-pwa";

const drawn = fileURLToPath(new URL("./src/style/icons.css", import.meta.url));

/** Vant brings its icons as a font of 33 KB; the app needs a handful, drawn in style/icons.css. */
const ownIcons: Plugin = {
  name: "own-icons",
  enforce: "pre",
  async resolveId(source, importer) {
    if (!source.endsWith("icon/index.css") || !importer?.includes("vant")) return null;
    return drawn;
  },
};

/** Where calls go while `npm run dev` serves the page. */
const server = process.env["SATCHEL"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  resolve: { conditions: ["source", ...defaultClientConditions] },
  plugins: [
    ownIcons,
    vue(),
    components({ dirs: [], resolvers: [VantResolver()], dts: "src/components.d.ts" }),
    VitePWA({
      registerType: "prompt",
      injectRegister: false,
      manifest: {
        name: "Satchel",
        short_name: "Satchel",
        description: "Visits, accounts and approvals, also without a signal · 拜访、客户、审批，离线可用",
        display: "standalone",
        start_url: "/",
        scope: "/",
        theme_color: "#0a6b5c",
        background_color: "#f4f6f5",
        icons: [
          { src: "/icon-192.png", sizes: "192x192", type: "image/png" },
          { src: "/icon-512.png", sizes: "512x512", type: "image/png" },
          { src: "/icon-maskable-512.png", sizes: "512x512", type: "image/png", purpose: "maskable" },
          { src: "/icon.svg", sizes: "any", type: "image/svg+xml" },
        ],
      },
      workbox: {
        globPatterns: ["**/*.{js,css,html,svg,png,webmanifest}"],
        navigateFallback: "/index.html",
        // Calls, links to photos and the server's own pages are never answered from the cache.
        navigateFallbackDenylist: [/^\/satchel\.v1\./, /^\/media\//, /^\/(healthz|readyz|metrics)$/],
        inlineWorkboxRuntime: true,
        cleanupOutdatedCaches: true,
        // The page that installed the worker is its own at once: whoever signs in and walks out of the signal has all screens.
        clientsClaim: true,
      },
    }),
  ],
  build: { outDir: "dist/app", emptyOutDir: true, manifest: ".vite/manifest.json", target: "es2022", modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  server: { proxy: { "^/(satchel\\.v1\\.|media/)": server } },
});
