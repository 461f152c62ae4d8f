/** What the office calls this browser, such as "Chrome on Android". */
export function deviceName(): string {
  const ua = navigator.userAgent;
  const browser = /MicroMessenger/.test(ua) ? "WeChat" : /Edg/.test(ua) ? "Edge" : /Firefox|FxiOS/.test(ua) ? "Firefox" : /Chrome|CriOS/.test(ua) ? "Chrome" : /Safari/.test(ua) ? "Safari" : "Browser";
  const system = /Android/.test(ua) ? "Android" : /iPhone|iPad/.test(ua) ? "iOS" : /Windows/.test(ua) ? "Windows" : /Mac OS/.test(ua) ? "macOS" : /Linux/.test(ua) ? "Linux" : "";
  return system === "" ? browser : `${browser} on ${system}`;
}
