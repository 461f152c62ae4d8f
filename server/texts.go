package server

import (
	"context"

	satchel "github.com/satchel-sync/satchel"
)

// words is a sentence for a person in the two languages that Satchel speaks. It holds no data.
type words struct{ zh, en string }

// in gives the sentence in the language of the call.
func (w words) in(ctx context.Context) string {
	if callOf(ctx).zh {
		return w.zh
	}
	return w.en
}

// textOf is the one table of texts of reasons; a reason that it lacks gets a general sentence (a test finds it).
func textOf(r satchel.Reason) words {
	switch r {
	case "":
		return words{"这次操作没有完成，请稍后再试。", "This did not work. Please try again later."}
	case satchel.ReasonMalformed:
		return words{"请求的格式不正确。请更新应用后再试。", "The request is not well-formed. Please update the app."}
	case satchel.ReasonMalformedCursor:
		return words{"需要重新下载数据，未发送的内容不会丢失。", "The data must be downloaded again; nothing unsent is lost."}
	case satchel.ReasonTooLarge:
		return words{"内容太大，无法发送。", "This is too large to be sent."}
	case satchel.ReasonBadCredentials:
		return words{"账号或密码不正确。", "The login or the password is wrong."}
	case satchel.ReasonTokenExpired:
		return words{"登录已过期，正在续期；如仍出现请重新登录。", "The session must be renewed; if this stays, sign in again."}
	case satchel.ReasonSessionEnded:
		return words{"登录已结束，请重新登录。未发送的内容会保留。", "The session has ended. Please sign in again; nothing unsent is lost."}
	case satchel.ReasonDeviceRevoked:
		return words{"管理员已停用此设备。", "An administrator has revoked this device."}
	case satchel.ReasonNotAllowed:
		return words{"您没有这项权限。", "You are not allowed to do this."}
	case satchel.ReasonNotFound:
		return words{"找不到，或您无权查看。", "Not found, or not visible to you."}
	case satchel.ReasonTaken:
		return words{"该名称已被使用，请换一个。", "This name is already in use. Please choose another."}
	case satchel.ReasonRateLimited:
		return words{"尝试次数过多，请稍后再试。", "Too many attempts. Please try again later."}
	case satchel.ReasonClientTooOld:
		return words{"应用版本过旧，请更新。未发送的内容会保留。", "This app is too old. Please update it; nothing unsent is lost."}
	case satchel.ReasonNotSetUp:
		return words{"服务器尚未初始化，请管理员打开启动时显示的初始化链接。", "The server is not set up yet. The administrator opens the set-up link that it printed."}
	case satchel.ReasonHashMismatch:
		return words{"文件传输出错，将重新发送。", "The file was damaged on its way; it will be sent again."}
	case satchel.ReasonUnexpectedOffset:
		return words{"文件将从中断处继续发送。", "The file is sent on from where it stopped."}
	case satchel.ReasonUnsupportedMedia:
		return words{"不支持这种文件类型。", "Files of this type are not accepted."}
	case satchel.ReasonDatabaseDown:
		return words{"服务器暂时无法响应，内容没有丢失，请稍后再试。", "The server cannot answer just now. Nothing is lost; please try again later."}
	case satchel.ReasonBlobStoreDown:
		return words{"文件暂时无法传输，稍后会自动重试。", "Files cannot be transferred just now; this is tried again later."}
	case satchel.ReasonDraining:
		return words{"服务器正在重启，请稍后再试。", "The server is restarting. Please try again in a moment."}
	case satchel.ReasonBusy:
		return words{"服务器繁忙，请稍后再试。", "The server is busy. Please try again in a moment."}
	case satchel.ReasonDeadline:
		return words{"处理超时，没有任何更改，请再试一次。", "This took too long, and nothing of it happened. Please try again."}
	case satchel.ReasonUnexpectedInternal:
		return words{"服务器出错了。请把编号告诉管理员。", "The server has a fault. Please tell the administrator the request id."}
	case satchel.ReasonWeChatNotBound:
		return words{"这个微信还没有绑定员工账号，请输入一次账号和密码。", "This WeChat account is not bound to you yet. Please enter your login and password once."}
	case satchel.ReasonWeChatCode:
		return words{"微信登录凭证已失效，请重试。", "WeChat did not accept the sign-in. Please try again."}
	case satchel.ReasonWeChatBlocked:
		return words{"微信暂时限制了这个账号登录，请改用账号密码，或明天再试。", "WeChat has blocked this account for now. Sign in elsewhere with login and password, or try again tomorrow."}
	case satchel.ReasonWeChatDown:
		return words{"微信暂时没有响应，请稍后再试。", "WeChat does not answer just now. Please try again in a moment."}
	case satchel.ReasonWeChatOff:
		return words{"此服务器未开通微信登录，请使用账号和密码。", "This server does not offer sign-in by WeChat. Please use login and password."}
	}
	return verdictText(r)
}

// verdictText has the reasons that only verdicts carry.
func verdictText(r satchel.Reason) words {
	switch r {
	case satchel.ReasonForbidden:
		return words{"您无权对这条记录这样做。", "You may not do this to this record."}
	case satchel.ReasonFieldForbidden:
		return words{"其中有您无权填写的字段。", "It has a field that you may not write."}
	case satchel.ReasonUnknownKind:
		return words{"服务器不认识这类记录。", "The server does not know this kind of record."}
	case satchel.ReasonUnknownField:
		return words{"服务器不认识其中的一个字段。", "The server does not know one of the fields."}
	case satchel.ReasonUnknownCommand:
		return words{"服务器不认识这个操作。", "The server does not know this command."}
	case satchel.ReasonBadValue:
		return words{"有一个值的类型、格式或大小不正确。", "A value has the wrong type, form or size."}
	case satchel.ReasonInvalid:
		return words{"这条记录不符合填写规则。", "The record breaks a rule of its kind."}
	case satchel.ReasonRecordUnknown:
		return words{"找不到这条记录，或您无权查看。", "No such record, or not visible to you."}
	case satchel.ReasonRecordExists:
		return words{"这个编号的记录已经存在。", "A record with this id already exists."}
	case satchel.ReasonRecordDeleted:
		return words{"这条记录已被删除。", "The record was deleted."}
	case satchel.ReasonDependsOn:
		return words{"它依赖的记录没有被接受，处理后会自动继续。", "It depends on a record that was refused; it goes on when that is settled."}
	case satchel.ReasonImmutable:
		return words{"这个字段填写后不能更改。", "This field cannot be changed once it is set."}
	case satchel.ReasonConcurrent:
		return words{"别人同时作了更改；您的内容已保留。", "Somebody else changed it meanwhile; what you entered is kept."}
	case satchel.ReasonStaleForm:
		return words{"表单在您决定之后有变化，请重新查看。", "The form has changed since you decided. Please look again."}
	case satchel.ReasonSuperseded:
		return words{"别人已经处理，或事项已撤回。", "Somebody else has decided, or the matter was withdrawn."}
	case satchel.ReasonReassigned:
		return words{"这项任务已转给别人。", "The task is now somebody else's."}
	case satchel.ReasonGuard:
		return words{"记录已经变化，没有执行。", "The record has moved on; nothing was done."}
	case satchel.ReasonAlreadyRunning:
		return words{"这条记录的审批正在进行。", "An approval of this record is running."}
	case satchel.ReasonSkipped:
		return words{"手机上的部分记录已损坏，未能发送。", "Some of the work on this phone was damaged and could not be sent."}
	case satchel.ReasonSameRecord:
		return words{"这两条记录已经是同一条。", "Both records are the same one already."}
	case satchel.ReasonNotSubmitted:
		return words{"没有待决定的事项。", "There is nothing to decide."}
	}
	return words{}
}
