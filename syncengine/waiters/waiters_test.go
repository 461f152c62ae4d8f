package waiters_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine/waiters"
)

func woken(w *waiters.Waiter) bool {
	select {
	case <-w.Woken():
		return true
	default:
		return false
	}
}

// Whatever comes in whatever order, who waits for what is named is woken, nobody else is, and nothing stays behind.
func TestWhoWaitsForItIsWokenAndNobodyElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ws := waiters.New()
		orgs := []satchel.ID{satchel.NewID(), satchel.NewID()}
		type device struct {
			org   satchel.ID
			nums  []int64
			stems []string
			w     *waiters.Waiter
			woken bool
		}
		var in []*device
		wake := func(hit func(d *device) bool) {
			for _, d := range in {
				d.woken = d.woken || hit(d)
			}
			for _, d := range in {
				if woken(d.w) != d.woken {
					t.Fatalf("woken: %t, of %v %v", woken(d.w), d.nums, d.stems)
				}
			}
			in = slices.DeleteFunc(in, func(d *device) bool {
				if d.woken {
					ws.Forget(d.w)
				}
				return d.woken
			})
		}
		num := rapid.Int64Range(1, 6)
		stem := rapid.SampledFrom([]string{"a", "b", "c"})
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			org := rapid.SampledFrom(orgs).Draw(t, "org")
			switch rapid.SampledFrom([]string{"register", "register", "forget", "num", "stem", "org"}).Draw(t, "step") {
			case "register":
				d := &device{org: org, nums: rapid.SliceOfN(num, 0, 5).Draw(t, "nums"), stems: rapid.SliceOfN(stem, 0, 2).Draw(t, "stems")}
				d.w = ws.Register(org, d.nums, d.stems, waiters.Seen{Seq: 1})
				in = append(in, d)
			case "forget":
				if len(in) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(in)-1).Draw(t, "who")
				ws.Forget(in[i].w)
				in = slices.Delete(in, i, i+1)
			case "num":
				nums := rapid.SliceOfN(num, 1, 3).Draw(t, "nums")
				ws.Wake(org, nums)
				wake(func(d *device) bool {
					return d.org == org && slices.ContainsFunc(nums, func(n int64) bool { return slices.Contains(d.nums, n) })
				})
			case "stem":
				s := stem.Draw(t, "stem")
				ws.WakeStems(org, []string{s})
				wake(func(d *device) bool { return d.org == org && slices.Contains(d.stems, s) })
			case "org":
				ws.WakeOrg(org)
				wake(func(d *device) bool { return d.org == org })
			}
			for _, org := range orgs {
				var want []int64
				for _, d := range in {
					if d.org == org {
						want = append(want, d.nums...)
					}
				}
				slices.Sort(want)
				got := ws.Nums(org)
				slices.Sort(got)
				if want = slices.Compact(want); !slices.Equal(got, want) {
					t.Fatalf("waited for is %v, not %v", got, want)
				}
			}
		}
		for _, d := range in {
			ws.Forget(d.w)
		}
		if left := ws.Snapshot(); len(left) != 0 {
			t.Fatalf("%d organisations stay behind", len(left))
		}
	})
}

// Whoever waits, forgets and is woken at once with others: each is woken by what comes behind his registration, and
// nothing stays behind.
func TestManyAtOnceLoseNoWake(t *testing.T) {
	t.Parallel()
	ws := waiters.New()
	org := satchel.NewID()
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				own := int64(1000 + n)
				w := ws.Register(org, []int64{own, int64(i % 3), int64(i % 2)}, []string{"a"}, waiters.Seen{})
				switch i % 4 {
				case 0:
					ws.Wake(org, []int64{own})
					select {
					case <-w.Woken(): // by this wake, or by one of another goroutine that took him first
					case <-time.After(10 * time.Second):
						t.Error("who was registered before the wake is not woken")
						return
					}
				case 1:
					ws.Wake(org, []int64{int64(i % 3)})
				case 2:
					ws.WakeStems(org, []string{"a"})
				}
				ws.Forget(w)
			}
		})
	}
	wg.Wait()
	ws.WakeOrg(org)
	if left := ws.Snapshot(); len(left) != 0 {
		t.Errorf("%d organisations stay behind", len(left))
	}
}

// BenchmarkWakeAThousand wakes a thousand managers of a team and takes them out of their groups.
func BenchmarkWakeAThousand(b *testing.B) {
	org := satchel.NewID()
	stems := make([]string, 12)
	for i := range stems {
		stems[i] = fmt.Sprint("stem ", i)
	}
	nums := make([]int64, 30)
	for i := range nums {
		nums[i] = int64(i)
	}
	for b.Loop() {
		b.StopTimer()
		ws := waiters.New()
		for i := range 1000 {
			ws.Register(org, append(nums, int64(1000+i)), stems, waiters.Seen{})
		}
		b.StartTimer()
		ws.Wake(org, []int64{7})
	}
}
