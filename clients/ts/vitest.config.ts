import { defineConfig } from "vitest/config";

// *.browser.test.ts run a real Chromium: `vitest run --project browser`. Everything else is `--project node`.
export default defineConfig({
  ssr: { resolve: { conditions: ["source"] } },
  resolve: { conditions: ["source"] },
  test: {
    // Generous, for the machine may be busy with the rest of `make test`: a test that hangs fails all the same.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 30_000 } },
    projects: [
      { extends: true, test: { name: "node", include: ["{src,test}/**/*.test.ts"], exclude: ["**/*.browser.test.ts"], maxWorkers: 2 } },
      { extends: true, test: { name: "browser", include: ["{src,test}/**/*.browser.test.ts"], testTimeout: 180_000, hookTimeout: 180_000, maxWorkers: 1 } },
    ],
  },
});
