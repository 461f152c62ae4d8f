package main

import (
	"strings"
	"testing"
)

func summed(t *testing.T, lines ...string) (string, bool) {
	t.Helper()
	var out strings.Builder
	s := newSum(&out)
	if err := s.read(strings.NewReader(strings.Join(lines, "\n") + "\n")); err != nil {
		t.Fatal(err)
	}
	ok := s.finish()
	return out.String(), ok
}

func TestTheLastLineTellsHowManyPassedAndFailed(t *testing.T) {
	t.Parallel()
	out, ok := summed(t,
		`{"Action":"pass","Package":"a","Test":"TestOne","Elapsed":0.01}`,
		`{"Action":"pass","Package":"a","Test":"TestTwo/deep","Elapsed":0}`,
		`{"Action":"pass","Package":"a","Test":"TestTwo","Elapsed":0.5}`,
		`{"Action":"pass","Package":"a","Elapsed":0.7}`)
	want := "--- PASS: TestOne (0.01s)\n--- PASS: TestTwo (0.50s)\nok  \ta\t0.700s\n3 passed, 0 failed\n"
	if out != want || !ok {
		t.Fatalf("got (%v)\n%s\nwant\n%s", ok, out, want)
	}
}

func TestAFailureIsToldOnceWithTheOutputOfItsSubtests(t *testing.T) {
	t.Parallel()
	out, ok := summed(t,
		`{"Action":"output","Package":"a","Test":"TestOne/deep","Output":"the reason\n"}`,
		`{"Action":"fail","Package":"a","Test":"TestOne/deep"}`,
		`{"Action":"fail","Package":"a","Test":"TestOne"}`,
		`{"Action":"fail","Package":"a"}`)
	if ok || strings.Count(out, "the reason") != 1 || !strings.HasSuffix(out, "\n0 passed, 2 failed\n") {
		t.Fatalf("got (%v)\n%s", ok, out)
	}
}

func TestAPackageThatIsNotBuiltFailsTheRunWithTheCompilersWords(t *testing.T) {
	t.Parallel()
	out, ok := summed(t,
		`{"ImportPath":"a [a.test]","Action":"build-output","Output":"a.go:1: undefined: x\n"}`,
		`{"ImportPath":"a [a.test]","Action":"build-fail"}`,
		`{"Action":"fail","Package":"a","FailedBuild":"a [a.test]"}`,
		`{"Action":"pass","Package":"b","Test":"TestOne"}`,
		`{"Action":"pass","Package":"b"}`)
	if ok || !strings.Contains(out, "undefined: x") || !strings.HasSuffix(out, "\n1 passed, 1 failed\n") {
		t.Fatalf("got (%v)\n%s", ok, out)
	}
}

func TestAPanicThatNoTestOwnsIsTold(t *testing.T) {
	t.Parallel()
	out, ok := summed(t,
		`{"Action":"output","Package":"a","Test":"TestOne","Output":"panic: oh\n"}`,
		`{"Action":"fail","Package":"a"}`)
	if ok || !strings.Contains(out, "panic: oh") {
		t.Fatalf("got (%v)\n%s", ok, out)
	}
}

func TestARunWithoutTestsIsNoSuccess(t *testing.T) {
	t.Parallel()
	if out, ok := summed(t, `{"Action":"skip","Package":"a"}`); ok {
		t.Fatal(out)
	}
}
