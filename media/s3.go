package media

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// The bounds of every conversation with S3.
const (
	s3DialTimeout   = 5 * time.Second
	s3HeaderTimeout = 30 * time.Second // from the end of a request to the begin of its answer
	s3IdleTimeout   = 60 * time.Second // without any byte in either direction
	s3CallTimeout   = 15 * time.Second // calls without a body
	s3PutTimeout    = 15 * time.Minute
	s3Tries         = 3
)

// S3 is a [Store] in one bucket of a server that speaks S3 (AWS, MinIO, COS, OSS, versitygw, …).
type S3 struct {
	core   minio.Core
	bucket string
}

// NewS3 opens the bucket that blobURL names and makes it where it is missing. The form is
//
//	s3://KEY:SECRET@host:port/bucket?region=us-east-1&insecure=1&path=1
//
// KEY and SECRET are percent-encoded where they contain '/', '+', ':' or '@'; region may be left out; insecure=1
// speaks plain HTTP; path=1 puts the bucket in the path rather than in the host name, as most servers other than AWS
// want it. Errors name the host and the bucket, never the secret.
func NewS3(ctx context.Context, blobURL string) (*S3, error) {
	u, err := url.Parse(blobURL)
	if err != nil {
		return nil, errors.New("media: the blob store's URL does not parse; percent-encode the secret")
	}
	bucket := strings.Trim(u.Path, "/")
	secret, hasSecret := u.User.Password()
	if u.Scheme != "s3" || u.Host == "" || bucket == "" || strings.Contains(bucket, "/") || !hasSecret {
		return nil, errors.New("media: an S3 store is named by s3://KEY:SECRET@host:port/bucket")
	}
	q := u.Query()
	for name, values := range q {
		flag := values[0] == "0" || values[0] == "1"
		if len(values) != 1 || name != "region" && (name != "insecure" && name != "path" || !flag) {
			return nil, fmt.Errorf("media: the blob store's URL has a wrong parameter %q; there are region=…, insecure=0|1 and path=0|1", name)
		}
	}
	lookup := minio.BucketLookupAuto
	if q.Get("path") == "1" {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(u.User.Username(), secret, ""), Secure: q.Get("insecure") != "1", Region: q.Get("region"),
		BucketLookup: lookup, MaxRetries: s3Tries, Transport: s3Transport(),
		TrailingHeaders: true, // asked by minio-go of who sends a checksum; no trailer is sent
	})
	if err != nil {
		return nil, fmt.Errorf("media: the S3 address %s is wrong: %w", u.Host, err)
	}
	s := &S3{core: minio.Core{Client: client}, bucket: bucket}
	ctx, cancel := context.WithTimeout(ctx, s3CallTimeout)
	defer cancel()
	there, err := client.BucketExists(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("media: S3 at %s does not answer for bucket %s (is the address right, may this key see the bucket?): %w", u.Host, bucket, err)
	}
	if !there {
		if err := client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: q.Get("region")}); err != nil && !ownBucket(err) {
			return nil, fmt.Errorf("media: there is no bucket %s at %s and this key may not make it; make it, or name another: %w", bucket, u.Host, err)
		}
	}
	return s, nil
}

// ownBucket tells that another replica made the bucket in the same moment.
func ownBucket(err error) bool { return minio.ToErrorResponse(err).Code == "BucketAlreadyOwnedByYou" }

func s3Transport() *http.Transport {
	d := &net.Dialer{Timeout: s3DialTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return idleConn{c}, nil
		},
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 16, MaxConnsPerHost: 64, IdleConnTimeout: 50 * time.Second,
		TLSHandshakeTimeout: s3DialTimeout, ResponseHeaderTimeout: s3HeaderTimeout, ExpectContinueTimeout: time.Second,
		DisableCompression: true,
	}
}

// idleConn ends a connection on which nothing moves.
type idleConn struct{ net.Conn }

func (c idleConn) Read(p []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(s3IdleTimeout)) // a closed connection says so by Read
	return c.Conn.Read(p)
}

func (c idleConn) Write(p []byte) (int, error) {
	_ = c.SetDeadline(time.Now().Add(s3IdleTimeout)) // a closed connection says so by Write
	return c.Conn.Write(p)
}

// Put implements [Store]. The SHA-256 is checked here and, by two headers, by the server.
func (s *S3) Put(ctx context.Context, key string, sum Sum, size int64, r io.Reader) error {
	if err := checkPut(key, size); err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, s3PutTimeout)
	defer cancel()
	v := newVerifier(r, sum, size)
	var body io.Reader = v
	if seeker, ok := r.(io.ReadSeeker); ok {
		body = seekingVerifier{v, seeker}
	}
	_, err := s.core.PutObject(callCtx, s.bucket, key, body, size, "", sum.String(), minio.PutObjectOptions{
		DisableContentSha256: true, // the body is signed by its SHA-256 as a whole, not in chunks
		UserMetadata:         map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(sum[:])},
	})
	if v.err != nil {
		return v.err
	}
	if err == nil {
		err = v.proven()
	}
	return s.fault(ctx, err)
}

// Open implements [Store].
func (s *S3) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := checkKey(key); err != nil {
		return nil, 0, err
	}
	if offset < 0 || length == 0 {
		return nil, 0, ErrBadRange
	}
	opts := minio.GetObjectOptions{}
	switch {
	case length > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	body, info, header, err := s.core.GetObject(ctx, s.bucket, key, opts)
	if err != nil {
		return nil, 0, s.fault(ctx, err)
	}
	size := info.Size
	if _, total, ok := strings.Cut(header.Get("Content-Range"), "/"); ok {
		if size, err = strconv.ParseInt(total, 10, 64); err != nil {
			_ = body.Close() // nothing was read
			return nil, 0, down(errors.New("media: S3 gave a Content-Range without a total"))
		}
	}
	return s3Body{ctx, body, s}, size, nil
}

// s3Body gives errors of the connection the store's form.
type s3Body struct {
	ctx context.Context
	io.ReadCloser
	s *S3
}

func (b s3Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, b.s.fault(b.ctx, err)
}

// Stat implements [Store].
func (s *S3) Stat(ctx context.Context, key string) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	callCtx, cancel := context.WithTimeout(ctx, s3CallTimeout)
	defer cancel()
	info, err := s.core.StatObject(callCtx, s.bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return 0, s.fault(ctx, err)
	}
	return info.Size, nil
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, s3CallTimeout)
	defer cancel()
	err := s.fault(ctx, s.core.RemoveObject(callCtx, s.bucket, key, minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrNotStored) {
		return nil
	}
	return err
}

// List implements [Store].
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		listCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		for o := range s.core.ListObjectsIter(listCtx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if o.Err != nil {
				yield("", s.fault(ctx, o.Err))
				return
			}
			if !yield(o.Key, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // minio-go ends silently then
			yield("", err)
		}
	}
}

// Check implements [Store] by asking for the bucket.
func (s *S3) Check(ctx context.Context) error {
	callCtx, cancel := context.WithTimeout(ctx, s3CallTimeout)
	defer cancel()
	there, err := s.core.BucketExists(callCtx, s.bucket)
	if err == nil && !there {
		err = errors.New("media: the bucket is gone")
	}
	return s.fault(ctx, err)
}

// fault gives an error of minio-go the form that [Store] promises. ctx is the caller's: its end is his own doing,
// while the end of a time-out of ours means that the store is down.
func (s *S3) fault(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	switch minio.ToErrorResponse(err).Code {
	case "NoSuchKey":
		return ErrNotStored
	case "InvalidRange":
		return ErrBadRange
	case "NoSuchBucket":
		err = fmt.Errorf("media: the bucket %s is gone: %w", s.bucket, err)
	}
	return down(err)
}
