package mobile

import (
	"errors"
	"io"
	"os"
)

// Attach keeps the bytes, queues them for Upload, and records the creation of the record that names them, whose id it gives:
// kind "photo" with the fields visit and taken_at, or "voice_note" with visit and duration_ms; blob, size and content_type
// are added. At most 100 MiB, else "too_large". The record syncs without waiting for the bytes. It waits for the disk only:
// call it on a worker. For anything larger than a thumbnail use AttachFile, which does not hold the bytes in memory.
func (c *Client) Attach(kind string, data []byte, contentType, fieldsJSON string) (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	f, err := fields(fieldsJSON)
	if err != nil {
		return "", err
	}
	if len(data) == 0 {
		return "", invalid("the file is empty")
	}
	id, err := c.inner.AttachBytes(ctx, kind, data, contentType, f)
	if err != nil {
		return "", c.fail(err)
	}
	return id.String(), nil
}

// AttachFile is Attach for the file at path, which is copied: it may go when the call returns.
func (c *Client) AttachFile(kind, path, contentType, fieldsJSON string) (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	f, err := fields(fieldsJSON)
	if err != nil {
		return "", err
	}
	if found, err := os.Stat(path); err != nil || found.Size() == 0 {
		return "", invalid("there is no such file, or it is empty")
	}
	id, err := c.inner.AttachFile(ctx, kind, path, contentType, f)
	if err != nil {
		return "", c.fail(err)
	}
	return id.String(), nil
}

// Media gives the files that this device still keeps, oldest first: a JSON array of {"record", "kind", "blob" (SHA-256 in hex),
// "size", "contentType", "refused"}; refused is why the server will not take it, "" = it will. It waits for the disk only.
func (c *Client) Media() (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	list, err := c.inner.Media(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	type line struct {
		Record      string `json:"record"`
		Kind        string `json:"kind"`
		Blob        string `json:"blob"`
		Size        uint64 `json:"size"`
		ContentType string `json:"contentType"`
		Refused     string `json:"refused"`
	}
	all := []line{}
	for _, m := range list {
		all = append(all, line{m.Record.String(), m.Kind, m.SHA256, m.Size, m.ContentType, string(m.Refused)})
	}
	return encode(all)
}

// ForgetMedia gives up the device's copy of a file: its record stays. It waits for the disk only.
func (c *Client) ForgetMedia(record string) error {
	ctx, err := c.local()
	if err != nil {
		return err
	}
	id, err := parseID("the record", record)
	if err != nil {
		return err
	}
	return c.fail(c.inner.ForgetMedia(ctx, id))
}

// Upload sends queued files, piece by piece, each going on where it stopped, and gives {"uploaded", "refused", "released"}:
// files that the server has, that it will never take, and whose copy here is gone because their record says that they are
// stored. It waits for the network. While Start's run goes on, it does this by itself.
func (c *Client) Upload() (string, error) {
	ctx, err := c.network()
	if err != nil {
		return "", err
	}
	r, err := c.inner.Upload(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	return encode(struct {
		Uploaded int `json:"uploaded"`
		Refused  int `json:"refused"`
		Released int `json:"released"`
	}{r.Uploaded, len(r.Refused), r.Released})
}

// SaveMedia writes the bytes of a photo or voice note into the file at path, in place of what is there, and gives their type,
// such as "image/jpeg". They come from the device while it has them, else from the server: then it waits for the network, and
// the server must know the record and this person must be allowed to see it. When it fails, path is as it was.
func (c *Client) SaveMedia(record, path string) (string, error) {
	ctx, err := c.network()
	if err != nil {
		return "", err
	}
	id, err := parseID("the record", record)
	if err != nil {
		return "", err
	}
	body, contentType, err := c.inner.Open(ctx, id)
	if err != nil {
		return "", c.fail(err)
	}
	defer body.Close() // read only: nothing can be lost
	aside := path + ".part"
	file, err := os.Create(aside)
	if err != nil {
		return "", c.fail(err)
	}
	_, err = io.Copy(file, body)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		return "", c.fail(errors.Join(err, os.Remove(aside)))
	}
	return contentType, nil
}
