Page({
  data: { accounts: [], names: [], chosen: -1, subject: "", summary: "", photos: [], busy: false },

  async onLoad() {
    const { client } = await getApp().satchel;
    const accounts = client.list("account", { limit: 500 });
    this.setData({ accounts: accounts.map(({ id }) => id), names: accounts.map(({ fields }) => fields.name || "") });
  },

  onAccount(e) {
    this.setData({ chosen: Number(e.detail.value) });
  },
  onSubject(e) {
    this.setData({ subject: e.detail.value });
  },
  onSummary(e) {
    this.setData({ summary: e.detail.value });
  },
  onPhoto() {
    wx.chooseMedia({
      count: 3,
      mediaType: ["image"],
      sizeType: ["compressed"],
      success: ({ tempFiles }) => this.setData({ photos: this.data.photos.concat(tempFiles.map((f) => f.tempFilePath)) }),
    });
  },

  // Recorded here and now; it is sent when there is a signal.
  async onSave() {
    const { client } = await getApp().satchel;
    const { accounts, chosen, subject, summary, photos } = this.data;
    if (chosen < 0) return wx.showToast({ title: "请选择客户", icon: "none" });
    this.setData({ busy: true });
    try {
      const visit = await client.create("visit", { account: accounts[chosen], subject, summary, visited_at: new Date().toISOString() });
      for (const path of photos) {
        const bytes = await read(path);
        await client.attach("photo", bytes, "image/jpeg", { visit, taken_at: new Date().toISOString() });
      }
      wx.navigateBack();
    } catch (e) {
      wx.showToast({ title: e.code === "storage_full" ? "存储空间已满，未保存" : e.message, icon: "none" });
    } finally {
      this.setData({ busy: false });
    }
  },
});

function read(filePath) {
  return new Promise((resolve, reject) =>
    wx.getFileSystemManager().readFile({ filePath, success: ({ data }) => resolve(new Uint8Array(data)), fail: ({ errMsg }) => reject(new Error(errMsg)) }),
  );
}
