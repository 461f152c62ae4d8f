// Keeps the page itself, so that it opens without a signal. Calls and links are never touched.
const files = ['./', 'style.css', 'store.js', 'app.js'];
self.addEventListener('install', (e) => e.waitUntil(caches.open('satchel').then((c) => c.addAll(files)).then(() => self.skipWaiting())));
self.addEventListener('activate', (e) => e.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (e) => {
  const path = new URL(e.request.url).pathname;
  if (e.request.method !== 'GET' || !['/', '/style.css', '/store.js', '/app.js'].includes(path)) return;
  e.respondWith(fetch(e.request).then((res) => {
    const copy = res.clone();
    if (res.ok) e.waitUntil(caches.open('satchel').then((c) => c.put(e.request, copy)));
    return res;
  }).catch(() => caches.match(e.request)));
});
