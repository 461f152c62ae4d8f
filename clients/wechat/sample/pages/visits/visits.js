Page({
  data: { visits: [], unsent: 0, complete: false, staged: 0 },

  async onLoad() {
    const { client } = await getApp().satchel;
    const newest = (a, b) => (a.id < b.id ? 1 : -1);
    this.ends = [
      // Only what is shown goes to setData, which is slow.
      client.watch("visit", { order: newest, limit: 50 }, (list) =>
        this.setData({ visits: list.map(({ id, fields, pending }) => ({ id, subject: fields.subject || "", account: (client.get("account", fields.account) || { fields: {} }).fields.name || "", pending })) }),
      ),
      client.watchStatus(({ pending, media, complete, staged }) => this.setData({ unsent: pending + media, complete, staged })),
    ];
  },
  onUnload() {
    (this.ends || []).forEach((end) => end());
  },

  onNew() {
    wx.navigateTo({ url: "/pages/visit/visit" });
  },
  onUnsent() {
    wx.navigateTo({ url: "/pages/unsent/unsent" });
  },
});
