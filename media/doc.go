// Package media keeps the bytes of photos and voice notes: it receives them in pieces over bad links, verifies them,
// stores them once per organisation under their SHA-256, and lends them out by links that expire.
//
//   - owns: the tables blob, blob_owner, upload and upload_piece; the keys blob/… and staging/… of the blob store
//   - promises: what Complete confirmed is durable and has the announced size, SHA-256 and an accepted type; nobody
//     learns from an answer whether bytes that he did not send himself exist; memory per call is bounded by one piece,
//     not by the file; the records that name a blob hear of it at least once after the commit
//   - may import: the root package, internal/pg, internal/jobs; minio-go, mimetype and imagemeta are imported here only
//   - start reading at: [Service.Begin], then [Service.Complete] and [Store]
package media
