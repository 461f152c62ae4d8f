package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
)

// chunkPath is where a piece of a file may come as a form, before the id of its upload: see docs/media.md.
const chunkPath = "/media/v1/chunk/"

// unform makes a PutChunk in JSON of a piece that came as a form, which is all that a mini-program can send. Other requests
// stay as they are.
func unform(r *http.Request) (*http.Request, error) {
	id, ok := strings.CutPrefix(r.URL.Path, chunkPath)
	if !ok {
		return r, nil
	}
	form, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	m := &satchelv1.PutChunkRequest{UploadId: id}
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(part, 2<<20))
		if err != nil {
			return nil, err
		}
		switch part.FormName() {
		case "offset":
			if m.Offset, err = strconv.ParseUint(string(b), 10, 64); err != nil {
				return nil, fmt.Errorf("the field offset is %q", b)
			}
		case "file":
			m.Data = b
		}
	}
	body, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	call := r.Clone(r.Context())
	call.URL.Path = satchelv1connect.MediaServicePutChunkProcedure
	call.Header.Set("Content-Type", "application/json")
	call.Body, call.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return call, nil
}
