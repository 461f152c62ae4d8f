package demodata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// maxSpeech bounds what is spoken, in bytes; about three minutes.
const maxSpeech = 4_000

// speechTime bounds how long the speaker may take.
const speechTime = 30 * time.Second

// Speech speaks the text and gives a WAV (16 bit, one channel). Text with Chinese characters is spoken in Mandarin, all
// else in English. It runs the program espeak-ng, which must be in PATH; where it is not, the error says what to
// install.
func Speech(ctx context.Context, text string) ([]byte, error) {
	if strings.TrimSpace(text) == "" || len(text) > maxSpeech {
		return nil, fmt.Errorf("demodata: speech takes 1 to %d bytes of text", maxSpeech)
	}
	program, err := exec.LookPath("espeak-ng")
	if err != nil {
		return nil, errors.New("demodata: espeak-ng is not in PATH; install the package espeak-ng (apt-get install espeak-ng, brew install espeak-ng)")
	}
	dir, err := os.MkdirTemp("", "satchel-speech-")
	if err != nil {
		return nil, fmt.Errorf("demodata.Speech: %w", err)
	}
	defer os.RemoveAll(dir)
	voice := "en"
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		voice = "cmn"
	}
	ctx, cancel := context.WithTimeout(ctx, speechTime)
	defer cancel()
	// Into a file: to a pipe, espeak-ng writes a header without the length.
	file := filepath.Join(dir, "speech.wav")
	cmd := exec.CommandContext(ctx, program, "-v", voice, "-w", file, "--stdin")
	cmd.Stdin = strings.NewReader(text)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("demodata: espeak-ng failed: %w: %.200s", err, said.String())
	}
	return os.ReadFile(file)
}
