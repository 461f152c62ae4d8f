package desk

import (
	"fmt"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// Kind is a cause why a phone is not in sync, spelt like the enum satchel.v1.TroubleKind without its prefix.
type Kind string

// The kinds, from the most pressing to the least: so the desk sorts devices.
const (
	Stuck          Kind = "STUCK"
	OldApp         Kind = "OLD_APP"
	Kept           Kind = "KEPT"
	Behind         Kind = "BEHIND"
	Silent         Kind = "SILENT"
	NeverSynced    Kind = "NEVER_SYNCED"
	Waiting        Kind = "WAITING"
	MediaWaiting   Kind = "MEDIA_WAITING"
	Forked         Kind = "FORKED"
	Repaired       Kind = "REPAIRED"
	PersonDisabled Kind = "PERSON_DISABLED"
	Revoked        Kind = "REVOKED"
)

// order is the severity of the kinds, the worst first.
var order = [...]Kind{Stuck, OldApp, Kept, Behind, Silent, NeverSynced, Waiting, MediaWaiting, Forked, Repaired, PersonDisabled, Revoked}

// From when on something is a trouble.
const (
	SilentAfter   = 24 * time.Hour     // since the last contact
	StuckAfter    = time.Hour          // from the recording of a mutation to a contact at which it still waited
	RepairedSince = 7 * 24 * time.Hour // a repair is told for so long
)

// Trouble is a cause why a phone is not in sync.
type Trouble struct {
	Kind Kind
	// ZH and EN are the sentence for the office: what is wrong and what to do, without customer data.
	ZH, EN string
}

// Facts are what the server knows of a device.
type Facts struct {
	Device, Person satchel.ID
	PersonName     string // "" = the directory has no such person
	Disabled       bool   // the person may not sign in
	Name           string // of the device, as the app gave it
	Platform       string
	AppVersion     string    // as told last
	SignedIn       time.Time // last
	Revoked        time.Time // zero = it is not

	Contact       time.Time // last; zero = it has never synced
	SchemaVersion int       // as told last; 0 = not told
	Protocol      int       // as told last; 0 = not told
	MinProtocol   int       // the oldest that the server speaks
	Profile       string    // as told last; "" = everything
	Outbox        uint32    // mutations that waited on it at the last contact
	Oldest        time.Time // of these, by the phone's clock; zero = none
	MediaBytes    uint64    // that waited on it at the last contact
	Lag           uint64    // commits since the place up to which it had pulled at the last contact
	Unfinished    bool      // at the last contact there was more to pull than it had
	Kept          int       // mutations of it that are kept and open
	Forked        bool      // it was ordered to take another number and has not used it yet
	Repaired      time.Time // when it last had to repair its data; zero = never
}

// Troubles says why a phone is not in sync, the most pressing cause first; none = it is, as far as the server knows.
func Troubles(f Facts, now time.Time) []Trouble {
	var out []Trouble
	for _, k := range order {
		if zh, en := f.told(k, now); en != "" {
			out = append(out, Trouble{Kind: k, ZH: zh, EN: en})
		}
	}
	return out
}

// told gives the sentences of one cause; "" = it does not apply.
func (f Facts) told(k Kind, now time.Time) (zh, en string) {
	alive := f.Revoked.IsZero() && !f.Disabled // nothing is expected of a device that is refused
	switch k {
	case Revoked:
		if !f.Revoked.IsZero() {
			return "设备已停用" + f.left("；最后一次联系时还有 %d 条修改未发送") + "。",
				"The device was revoked" + f.left("; at its last contact %d changes waited on it") + "."
		}
	case PersonDisabled:
		if f.Disabled && f.Revoked.IsZero() {
			return "该人员已停用，不能登录" + f.left("；设备上还有 %d 条修改未发送") + "。",
				"The person may not sign in any more" + f.left("; %d changes wait on the device") + "."
		}
	case NeverSynced:
		if alive && f.Contact.IsZero() {
			return "已登录，但从未同步。请在有网络时打开应用。", "It has signed in and never synced. Open the app where there is a signal."
		}
	case Silent:
		if since := now.Sub(f.Contact); alive && !f.Contact.IsZero() && since >= SilentAfter {
			return "已有" + spanZH(since) + "没有联系。请在有网络时打开应用。",
				"It has not been heard of for " + spanEN(since) + ". Open the app where there is a signal."
		}
	case Stuck:
		if alive && f.stuck() {
			span := f.Contact.Sub(f.Oldest)
			return fmt.Sprintf("有 %d 条修改未能发送，最早的一条在%s前记录，而设备此后联系过服务器。请更新应用，并查看应用中的错误。", f.Outbox, spanZH(span)),
				fmt.Sprintf("%s unsent, the oldest for %s, although the device was heard of since. Update the app and look at the error that it shows.",
					counted(f.Outbox, "change waits", "changes wait"), spanEN(span))
		}
	case Waiting:
		if alive && f.Outbox > 0 && !f.stuck() {
			return fmt.Sprintf("最后一次联系时有 %d 条修改等待发送。", f.Outbox),
				fmt.Sprintf("At its last contact %s to be sent.", counted(f.Outbox, "change waited", "changes waited"))
		}
	case MediaWaiting:
		if alive && f.MediaBytes > 0 {
			mib := float64(f.MediaBytes) / (1 << 20)
			return fmt.Sprintf("有 %.1f MiB 的照片或语音等待上传。请连接无线网络。", mib),
				fmt.Sprintf("%.1f MiB of photos and voice notes wait to be sent. Find it a better signal.", mib)
		}
	case Behind:
		if alive && f.Unfinished {
			zh, en := "", ""
			if f.Lag > 0 {
				zh, en = fmt.Sprintf("（相差 %d 次提交）", f.Lag), " ("+counted(f.Lag, "commit", "commits")+" behind)"
			}
			return "最后一次联系时还没有下载全部数据" + zh + "。请保持应用打开，直到同步完成。",
				"At its last contact it had not pulled everything" + en + ". Keep the app open until it has synced."
		}
	case Kept:
		if f.Kept > 0 {
			return fmt.Sprintf("有 %d 条修改被拒绝或有冲突，尚未处理。", f.Kept),
				counted(f.Kept, "refused or conflicting change waits", "refused or conflicting changes wait") + " for somebody to settle."
		}
	case OldApp:
		if alive && f.Protocol > 0 && f.Protocol < f.MinProtocol {
			return "应用版本过旧：它的修改会保留，更新应用后才能继续同步。", "Its app is too old for this server, which keeps its work: update the app."
		}
	case Forked:
		if alive && f.Forked {
			return "设备的数据曾被恢复或复制，已分配新的编号，但尚未使用。请打开应用。",
				"Its store was restored or cloned; it got a new number and has not used it yet. Open the app."
		}
	case Repaired:
		if since := now.Sub(f.Repaired); alive && !f.Repaired.IsZero() && since < RepairedSince {
			return "设备在" + spanZH(since) + "前修复过本地数据。", "It repaired its data " + spanEN(since) + " ago."
		}
	}
	return "", ""
}

// stuck tells whether what waits is older than a contact since: it is not the signal that is missing.
func (f Facts) stuck() bool {
	return f.Outbox > 0 && !f.Oldest.IsZero() && f.Contact.Sub(f.Oldest) > StuckAfter
}

// left says how much was left on a device that is refused; nothing where nothing was.
func (f Facts) left(text string) string {
	if f.Outbox == 0 {
		return ""
	}
	return fmt.Sprintf(text, f.Outbox)
}

// counted gives "1 change" or "3 changes".
func counted[N int | uint32 | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// span gives a duration in its largest whole unit.
func span(d time.Duration) (n int, unit int) {
	switch d = max(d, 0); {
	case d < time.Hour:
		return int(d / time.Minute), 0
	case d < 48*time.Hour:
		return int(d / time.Hour), 1
	}
	return int(d / (24 * time.Hour)), 2
}

func spanEN(d time.Duration) string {
	n, unit := span(d)
	name := [...]string{"minute", "hour", "day"}[unit]
	return counted(n, name, name+"s")
}

func spanZH(d time.Duration) string {
	n, unit := span(d)
	return fmt.Sprintf(" %d %s", n, [...]string{"分钟", "小时", "天"}[unit])
}

// add puts in what the engine knows.
func (f *Facts) add(l syncengine.LaneState) {
	if l.AppVersion != "" {
		f.AppVersion = l.AppVersion
	}
	f.Contact, f.SchemaVersion, f.Profile, f.Repaired = l.LastContact, l.AppSchema, l.Profile, l.RepairedAt
	if !f.Contact.IsZero() {
		f.Protocol = l.Protocol
	}
	f.Outbox, f.Oldest, f.MediaBytes = l.OutboxCount, l.OutboxOldest, l.MediaBytes
	f.Lag, f.Unfinished, f.Kept, f.Forked = l.Lag, l.Behind, int(l.Kept), l.Forked() && l.Next <= 1
}
