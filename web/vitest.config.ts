import { defineConfig } from "vitest/config";

// src/**/*.test.ts is logic alone. e2e/ runs the app in Chromium on a server of its own, one file after the other, for each
// measures time: `npx vitest run --project e2e`.
export default defineConfig({
  test: {
    teardownTimeout: 60_000, // the server ends
    projects: [
      { extends: "./vite.config.ts", test: { name: "unit", include: ["src/**/*.test.ts"] } },
      {
        resolve: { conditions: ["source"] },
        ssr: { resolve: { conditions: ["source"] } },
        test: {
          name: "e2e",
          include: ["e2e/**/*.test.ts"],
          globalSetup: "e2e/setup.ts",
          maxWorkers: 1,
          fileParallelism: false,
          testTimeout: 240_000,
          hookTimeout: 240_000,
          expect: { poll: { timeout: 60_000, interval: 100 } }, // a person waits; the machine may be busy
        },
      },
    ],
  },
});
