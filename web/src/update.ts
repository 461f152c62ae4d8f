import { shallowRef } from "vue";

/** The new version that is ready, if there is one. It waits until the person says so. */
export const ready = shallowRef<ServiceWorker>();

let asked = false;
let stale = false;

/** Milliseconds between two looks for a new version, while the app stays open. */
const every = 3_600_000;

/** Has the browser keep the whole app, behind everything that the first screen needs, and look for new versions. */
export async function keepApp(): Promise<void> {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return;
  const workers = navigator.serviceWorker;
  let had = workers.controller !== null;
  workers.addEventListener("controllerchange", () => {
    // The first worker takes over a page of its own version. A later one does so because somebody asked for it: here, or
    // in another tab. A tab that did not ask may hold a form, and changes over at its next screen.
    if (!had) had = true;
    else if (asked) location.reload();
    else stale = true;
  });
  const registration = await workers.register("/sw.js");
  const look = (worker: ServiceWorker | null): void => {
    if (worker?.state === "installed" && workers.controller) ready.value = worker;
  };
  look(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const worker = registration.installing;
    worker?.addEventListener("statechange", () => look(worker));
  });
  setInterval(() => {
    if (navigator.onLine) registration.update().catch(() => undefined); // the next look finds it
  }, every);
}

/** Changes over to the new version: this page loads again. */
export function changeOver(): void {
  asked = true;
  ready.value?.postMessage({ type: "SKIP_WAITING" });
}

/** Tells whether this page is of an older version than the one that another tab changed over to. */
export function isStale(): boolean {
  return stale;
}
