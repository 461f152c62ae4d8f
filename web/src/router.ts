import { createRouter, createWebHistory } from "vue-router";
import { office } from "./routes/office.js";
import { identity, open } from "./satchel.js";
import { isStale } from "./update.js";
import SignIn from "./views/SignIn.vue";
import Today from "./views/Today.vue";

declare module "vue-router" {
  interface RouteMeta {
    /** It is shown without a session. */
    open?: boolean;
    /** The tab that it belongs to; absent = the bar of tabs is not shown. */
    tab?: "today" | "accounts" | "visits" | "inbox" | "me";
  }
}

export const router = createRouter({
  history: createWebHistory(),
  // The two first screens come with the frame: a file of their own would be one more round trip at 150 ms.
  routes: [
    { path: "/", name: "today", component: Today, meta: { tab: "today" } },
    { path: "/sign-in", name: "sign-in", component: SignIn, meta: { open: true } },
    { path: "/setup", name: "setup", component: () => import("./views/Setup.vue"), meta: { open: true }, beforeEnter: (to) => to.hash.startsWith("#setup=") || "/" },
    { path: "/accounts", name: "accounts", component: () => import("./views/Accounts.vue"), meta: { tab: "accounts" } },
    { path: "/accounts/:id", name: "account", component: () => import("./views/Account.vue"), props: true },
    { path: "/records/:kind/new", name: "create", component: () => import("./views/Edit.vue"), props: (to) => ({ kind: to.params["kind"], preset: to.query }) },
    { path: "/records/:kind/:id", name: "edit", component: () => import("./views/Edit.vue"), props: true },
    { path: "/visits", name: "visits", component: () => import("./views/Visits.vue"), meta: { tab: "visits" } },
    { path: "/visits/new", name: "log-visit", component: () => import("./views/LogVisit.vue"), props: (to) => ({ account: to.query["account"] ?? "" }) },
    { path: "/visits/:id", name: "visit", component: () => import("./views/Visit.vue"), props: true },
    { path: "/me", name: "me", component: () => import("./views/Me.vue"), meta: { tab: "me" } },
    ...office,
    { path: "/:rest(.*)*", redirect: "/" },
  ],
  // Lists scroll in boxes of their own and keep their places themselves (parts/VirtualList.vue).
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
});

router.beforeEach(async (to) => {
  // Another tab changed over to a newer version: the next screen is a good moment, for what was open here has been left.
  if (isStale()) {
    location.assign(to.fullPath);
    return false;
  }
  // The link that the server prints for the first organisation; the code stands behind the #, out of every log.
  if (to.hash.startsWith("#setup=") && to.name !== "setup") return { name: "setup", hash: to.hash };
  await open();
  const known = identity.value.person !== "";
  if (!known && !to.meta.open) return { name: "sign-in", query: to.fullPath === "/" ? {} : { to: to.fullPath } };
  return true;
});
