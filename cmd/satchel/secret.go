package main

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// devSecret is known to everybody; only --dev takes it.
const devSecret = "satchel-development-secret-never-for-production"

// minSecret is how many bytes a secret has at least.
const minSecret = 32

// howToMake is the end of every complaint about a secret.
const howToMake = "Make one with `openssl rand -hex 32`, keep it, and give every replica the same as SATCHEL_SECRET."

// secretFlags hold the secret from which keys are derived.
type secretFlags struct {
	Secret     string `env:"SATCHEL_SECRET" group:"Secrets" placeholder:"HEX" help:"32 random bytes in hex, the same on every replica; signs the links to photos and voice notes. Required, but for --dev."`
	SecretFile string `env:"SATCHEL_SECRET_FILE" group:"Secrets" type:"path" placeholder:"FILE" help:"The file that holds the secret, instead of --secret."`
}

// read gives the secret's bytes, checked; dev allows the known one.
func (f *secretFlags) read(dev bool) ([]byte, error) {
	text := f.Secret
	if f.SecretFile != "" {
		if text != "" {
			return nil, usagef("the secret comes by SATCHEL_SECRET or by SATCHEL_SECRET_FILE, not by both")
		}
		b, err := os.ReadFile(f.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("the secret's file: %w", err)
		}
		text = string(b)
	}
	text = strings.TrimSpace(text)
	if text == "" && dev {
		text = devSecret
	}
	return checkSecret(text, dev)
}

// checkSecret refuses what is missing, known, short, or plainly not random.
func checkSecret(text string, dev bool) ([]byte, error) {
	switch {
	case text == "":
		return nil, usagef("a secret is missing. %s", howToMake)
	case strings.HasPrefix(text, "satchel-development-secret"):
		if !dev {
			return nil, usagef("this is the development secret, which everybody knows; it works with --dev only. %s", howToMake)
		}
		return []byte(text), nil
	}
	secret := []byte(text)
	if b, err := hex.DecodeString(text); err == nil {
		secret = b
	}
	if len(secret) < minSecret {
		return nil, usagef("the secret is too short: %d bytes, and it takes %d. %s", len(secret), minSecret, howToMake)
	}
	// 32 random bytes have fewer than 16 different ones about never.
	seen := map[byte]bool{}
	for _, c := range secret {
		seen[c] = true
	}
	if len(seen) < 16 {
		return nil, usagef("the secret is not random: it repeats a few bytes. %s", howToMake)
	}
	return secret, nil
}

// linkKey derives the key that signs links to bytes.
func linkKey(secret []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, secret, nil, "satchel media link v1", 32)
}
