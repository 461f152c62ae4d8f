const { org } = require("../../config");

Page({
  data: { ask: false, login: "", password: "", busy: false, message: "" },

  onLogin(e) {
    this.setData({ login: e.detail.value });
  },
  onPassword(e) {
    this.setData({ password: e.detail.value });
  },

  // The first time, the server asks who the WeChat user is: then the password is typed, once.
  async onSignIn() {
    const app = getApp();
    const { ask, login, password } = this.data;
    this.setData({ busy: true, message: "" });
    try {
      const satchel = await app.satchel;
      await satchel.signIn({ org, ...(ask ? { bind: { login, password } } : {}) });
      this.setData({ password: "" });
      app.work();
      wx.reLaunch({ url: "/pages/visits/visits" });
    } catch (e) {
      this.setData({ ask: ask || e.reason === "WECHAT_NOT_BOUND" || e.reason === "WECHAT_OFF", message: e.userMessage || e.message });
    } finally {
      this.setData({ busy: false });
    }
  },
});
