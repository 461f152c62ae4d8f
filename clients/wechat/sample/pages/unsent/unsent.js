const { templates = [] } = require("../../config");

Page({
  data: { items: [], files: [], why: "" },

  async onLoad() {
    const { client } = await getApp().satchel;
    this.end = client.watchStatus(({ error }) =>
      this.setData({
        items: client.pending().map(({ id, ops, sent }) => ({ id, text: ops.map((op) => `${op.action} ${op.kind}`).join("，"), sent })),
        files: client.media().map(({ record, size, sent, refused }) => ({ record, percent: Math.floor((100 * sent) / size), refused })),
        why: error ? error.message : "",
      }),
    );
  },
  onUnload() {
    if (this.end) this.end();
  },

  async onRetry() {
    const { client } = await getApp().satchel;
    client.poke();
  },

  // WeChat wants the question in the tap itself, so nothing is waited for before.
  onNotify() {
    getApp().opened.grants(templates).catch((e) => wx.showToast({ title: e.message, icon: "none" }));
  },
});
