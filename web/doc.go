// Package web carries the web app in the binary and serves it: the phone app of package.json's @satchel/web, as Vite
// built it into dist/app.
//
//   - owns: the files in dist, and which headers browsers get with them
//   - promises: a clean clone builds without Node and then serves dist/unbuilt.html; nothing inline runs, nothing foreign
//     loads; files whose names change with their content are kept for a year, all others are asked for each time
//   - may import: nothing of ours
//   - start reading at: [New]
package web
