// The server's address: on the mini-program's lists of request and uploadFile domains (docs/wechat.md).
module.exports = { baseUrl: "https://satchel.example.com", org: "", templates: [] };
