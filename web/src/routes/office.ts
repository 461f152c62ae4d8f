import type { RouteRecordRaw } from "vue-router";

/** The office's half: inbox, approvals, attentions, what is unsent, devices. */
export const office: RouteRecordRaw[] = [
  { path: "/inbox", name: "inbox", component: () => import("../views/Inbox.vue"), meta: { tab: "inbox" } },
  { path: "/notices/:id", name: "notice", component: () => import("../views/Notice.vue"), props: true },
  { path: "/approvals", name: "approvals", component: () => import("../views/Approvals.vue") },
  { path: "/approvals/:id", name: "approval", component: () => import("../views/Approval.vue"), props: true },
  { path: "/attentions", name: "attentions", component: () => import("../views/Attentions.vue") },
  { path: "/attentions/:id", name: "attention", component: () => import("../views/Attention.vue"), props: true },
  { path: "/unsent", name: "unsent", component: () => import("../views/Unsent.vue") },
  { path: "/devices", name: "devices", component: () => import("../views/Devices.vue") },
];
