const { createSatchel } = require("./satchel");
const { baseUrl } = require("./config");

App({
  onLaunch() {
    // One client for the whole mini-program; pages wait for it.
    this.satchel = createSatchel({ baseUrl, language: "zh-CN", appVersion: "sample 1" });
    this.satchel.then((satchel) => {
      this.opened = satchel; // for what must not wait
      const { client } = satchel;
      if (client.identity().signedIn) this.work();
      else wx.reLaunch({ url: "/pages/sign-in/sign-in" });
    });
  },

  // Keeps the device in step from now on.
  async work() {
    const satchel = await this.satchel;
    try {
      await satchel.run();
    } catch (e) {
      if (e.code === "sign_in_again" || e.code === "device_revoked") wx.reLaunch({ url: "/pages/sign-in/sign-in" });
      else if (e.code !== "closed") wx.showToast({ title: e.userMessage || e.message, icon: "none" });
    }
  },
});
