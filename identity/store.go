package identity

// Every statement fixes one organisation, except those that find an organisation by its slug and those of the set-up
// code, which exists before any. Times and limits are parameters: no statement asks the database's clock.

const sqlFindOrg = `-- identity.FindOrg
select org_id from org where closing_at is null and (slug = $1 or $1 = '') limit 2`

const sqlAnyOrg = `-- identity.AnyOrg
select exists (select from org)`

const sqlOrgBySlug = `-- identity.OrgBySlug
select org_id from org where slug = $1`

const sqlOrgs = `-- identity.Orgs
select org_id, slug, name from org where slug > $1 order by slug limit $2`

const sqlInsertOrg = `-- identity.InsertOrg
insert into org (org_id, slug, name, time_zone, created_at) values ($1, $2, $3, $4, $5)`

const sqlCloseOrg = `-- identity.CloseOrg
update org set closing_at = coalesce(closing_at, $2) where slug = $1`

// A row's share of foreign keys (for key share) does not wait for this lock.
const sqlLockDirectory = `-- identity.LockDirectory
select 1 from org where org_id = $1 for no key update`

const sqlActiveRoles = `-- identity.ActiveRoles
select roles from person where org_id = $1 and id = $2 and disabled_at is null`

const sqlSetupCode = `-- identity.SetupCode
insert into setup_code (hash, created_at) select $1, $2 where not exists (select from org)
on conflict (only_row) do update set hash = excluded.hash, created_at = excluded.created_at where setup_code.used_at is null`

const sqlReadSetupCode = `-- identity.ReadSetupCode
select hash, used_at is not null from setup_code`

const sqlLockSetupCode = `-- identity.LockSetupCode
select hash, used_at is not null from setup_code for update`

const sqlUseSetupCode = `-- identity.UseSetupCode
update setup_code set used_at = $1`

// The device only if it is this person's; if it was revoked, as what the installation was.
const sqlFindLogin = `-- identity.FindLogin
select p.id, p.display_name, coalesce(p.password_hash, ''), p.password_version, p.disabled_at is not null, d.id, w.id
from person p
left join device d on d.org_id = p.org_id and d.id = $3 and d.person_id = p.id and d.revoked_at is null
left join device w on w.org_id = p.org_id and w.id = $3 and w.person_id = p.id and w.revoked_at is not null
    and w.installation = $4 and $4 <> ''
where p.org_id = $1 and p.login_fold = $2`

// Counts the attempt and gives whether the next one must wait; no row means that this one must.
const sqlCharge = `-- identity.Charge
insert into sign_in_throttle as t (org_id, subject, attempts, last_at) values ($1, $2, 1, $3)
on conflict (org_id, subject) do update set
    attempts = case when t.last_at < $4 then 1 else t.attempts + 1 end,
    last_at = excluded.last_at,
    blocked_until = case when t.last_at >= $4 and t.attempts + 1 >= $5::integer then
        excluded.last_at + make_interval(secs => least(60 * power(2, least(t.attempts + 1 - $5::integer, 10)), 900)) end
where t.blocked_until is null or t.blocked_until <= excluded.last_at
returning blocked_until is not null`

const sqlBlockedUntil = `-- identity.BlockedUntil
select blocked_until from sign_in_throttle where org_id = $1 and subject = $2 and blocked_until is not null`

const sqlClearThrottle = `-- identity.ClearThrottle
delete from sign_in_throttle where org_id = $1 and subject = $2`

// Rows that somebody else is about to count on are left alone.
const sqlForgetAttempts = `-- identity.ForgetAttempts
delete from sign_in_throttle where org_id = $1 and subject in (
    select subject from sign_in_throttle where org_id = $1 and last_at < $2 order by last_at limit 100 for update skip locked)`

const sqlHoldPerson = `-- identity.HoldPerson
select 1 from person p join org o on o.org_id = p.org_id and o.closing_at is null
where p.org_id = $1 and p.id = $2 and p.password_version = $3 and p.disabled_at is null for share of p`

// A device that exists is the person's own, which FindLogin saw; the condition holds it to that.
const sqlSaveDevice = `-- identity.SaveDevice
insert into device (org_id, id, person_id, installation, name, platform, app_version, created_at, last_sign_in, was)
values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)
on conflict (org_id, id) do update set installation = excluded.installation, name = excluded.name,
    platform = excluded.platform, app_version = excluded.app_version, last_sign_in = excluded.last_sign_in
where device.person_id = excluded.person_id and device.revoked_at is null`

const sqlSaveSession = `-- identity.SaveSession
insert into session (org_id, device_id, person_id, family_hash, access_hash, access_expires_at, refresh_hash,
    refresh_expires_at, signed_in_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (org_id, device_id) do update set family_hash = excluded.family_hash, access_hash = excluded.access_hash,
    access_expires_at = excluded.access_expires_at, refresh_hash = excluded.refresh_hash,
    refresh_expires_at = excluded.refresh_expires_at, signed_in_at = excluded.signed_in_at, used_at = null,
    prev_refresh_hash = null, rotated_at = null, rotation_salt = null, ended_at = null, ended_why = null`

const sqlRehash = `-- identity.Rehash
update person set password_hash = $4 where org_id = $1 and id = $2 and password_version = $3`

// Five probes of primary keys. Of the engine's org_clock it reads the one column that a Principal carries.
const sqlAuthenticate = `-- identity.Authenticate
select s.person_id, p.roles, c.rights, s.access_expires_at, s.used_at is not null,
    s.ended_at is not null or p.disabled_at is not null or o.closing_at is not null,
    d.revoked_at is not null or coalesce(s.ended_why = 'revoked', false)
from session s
join device d on d.org_id = s.org_id and d.id = s.device_id
join person p on p.org_id = s.org_id and p.id = s.person_id
join org o on o.org_id = s.org_id
join org_clock c on c.org_id = s.org_id
where s.org_id = $1 and s.device_id = $2 and s.access_hash = $3`

const sqlMarkUsed = `-- identity.MarkUsed
update session set used_at = coalesce(used_at, $4), rotation_salt = null
where org_id = $1 and device_id = $2 and access_hash = $3 and ended_at is null`

const sqlLockSession = `-- identity.LockSession
select s.person_id, s.family_hash, s.refresh_hash, coalesce(s.prev_refresh_hash, ''), s.access_expires_at,
    s.refresh_expires_at, s.signed_in_at, coalesce(s.rotated_at, s.signed_in_at), s.rotation_salt, s.used_at is not null,
    s.ended_at is not null or p.disabled_at is not null or o.closing_at is not null,
    d.revoked_at is not null or coalesce(s.ended_why = 'revoked', false)
from session s
join device d on d.org_id = s.org_id and d.id = s.device_id
join person p on p.org_id = s.org_id and p.id = s.person_id
join org o on o.org_id = s.org_id
where s.org_id = $1 and s.device_id = $2
for update of s`

const sqlRotate = `-- identity.Rotate
update session set prev_refresh_hash = refresh_hash, access_hash = $3, access_expires_at = $4, refresh_hash = $5,
    refresh_expires_at = $6, rotation_salt = $7, rotated_at = $8, used_at = null
where org_id = $1 and device_id = $2`

const sqlEndSession = `-- identity.EndSession
update session set ended_at = $3, ended_why = $4, rotation_salt = null
where org_id = $1 and device_id = $2 and ended_at is null`

// All sessions of a person but the one on the device $5.
const sqlEndSessions = `-- identity.EndSessions
update session set ended_at = $3, ended_why = $4, rotation_salt = null
where org_id = $1 and person_id = $2 and ended_at is null and device_id <> $5`

const sqlWhoAmI = `-- identity.WhoAmI
select p.display_name, p.team_id, o.name, o.time_zone
from person p join org o on o.org_id = p.org_id
where p.org_id = $1 and p.id = $2`

const sqlPasswordOf = `-- identity.PasswordOf
select coalesce(password_hash, ''), password_version from person where org_id = $1 and id = $2`

const sqlChangePassword = `-- identity.ChangePassword
update person set password_hash = $3, password_version = password_version + 1
where org_id = $1 and id = $2 and password_version = $4 and disabled_at is null`

const sqlResetPassword = `-- identity.ResetPassword
update person set password_hash = $3, password_version = password_version + 1 where org_id = $1 and id = $2`

const sqlReadPerson = `-- identity.ReadPerson
select id, login, display_name, team_id, roles, disabled_at is not null from person where org_id = $1 and id = $2`

const sqlPersonByLogin = `-- identity.PersonByLogin
select id from person where org_id = $1 and login_fold = $2`

const sqlListPeople = `-- identity.ListPeople
select id, login, display_name, team_id, roles, disabled_at is not null from person
where org_id = $1 and login_fold > coalesce((select login_fold from person where org_id = $1 and id = $2), '')
order by login_fold limit $3`

const sqlInsertPerson = `-- identity.InsertPerson
insert into person (org_id, id, login, login_fold, display_name, team_id, roles, password_hash, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

const sqlUpdatePerson = `-- identity.UpdatePerson
update person set display_name = $3, team_id = $4, roles = $5,
    disabled_at = case when $6::boolean then coalesce(disabled_at, $7::timestamptz) end
where org_id = $1 and id = $2`

const sqlOtherAdmin = `-- identity.OtherAdmin
select exists (select from person
    where org_id = $1 and id <> $2 and disabled_at is null and password_hash is not null and $3::text = any (roles))`

const sqlListTeams = `-- identity.ListTeams
select id, name, parent_id from team where org_id = $1 order by name, id`

const sqlTeamExists = `-- identity.TeamExists
select 1 from team where org_id = $1 and id = $2`

const sqlInsertTeam = `-- identity.InsertTeam
insert into team (org_id, id, parent_id, name, created_at) values ($1, $2, $3, $4, $5)`

const sqlUpdateTeam = `-- identity.UpdateTeam
update team set parent_id = $3, name = $4 where org_id = $1 and id = $2`

const sqlListDevices = `-- identity.ListDevices
select id, person_id, installation, name, platform, app_version, created_at, last_sign_in, revoked_at
from device where org_id = $1 and person_id = $2 order by id desc limit 100`

const sqlDevicesOf = `-- identity.DevicesOf
select id, person_id, installation, name, platform, app_version, created_at, last_sign_in, revoked_at
from device where org_id = $1 and id > $2 and ($4::uuid is null or person_id = $4) order by id limit $3`

const sqlDeviceOwner = `-- identity.DeviceOwner
select person_id from device where org_id = $1 and id = $2`

const sqlRevokeDevice = `-- identity.RevokeDevice
update device set revoked_at = coalesce(revoked_at, $3) where org_id = $1 and id = $2`

const sqlKnownCode = `-- identity.KnownCode
select openid, coalesce(unionid, '') from wechat_code where org_id = $1 and hash = $2 and used_at > $3`

const sqlKeepCode = `-- identity.KeepCode
insert into wechat_code (org_id, hash, openid, unionid, used_at) values ($1, $2, $3, nullif($4, ''), $5) on conflict do nothing`

const sqlForgetCodes = `-- identity.ForgetCodes
delete from wechat_code where org_id = $1 and hash in (
    select hash from wechat_code where org_id = $1 and used_at <= $2 order by used_at limit 100 for update skip locked)`

// As FindLogin, by a binding that holds.
const sqlFindWeChat = `-- identity.FindWeChat
select p.id, p.display_name, p.password_version, d.id, w.id
from wechat_identity b
join person p on p.org_id = b.org_id and p.id = b.person_id and p.password_version = b.password_version
    and p.disabled_at is null
left join device d on d.org_id = p.org_id and d.id = $4 and d.person_id = p.id and d.revoked_at is null
left join device w on w.org_id = p.org_id and w.id = $4 and w.person_id = p.id and w.revoked_at is not null
    and w.installation = $5 and $5 <> ''
where b.org_id = $1 and b.app_id = $2 and b.openid = $3`

const sqlHoldWeChat = `-- identity.HoldWeChat
select 1 from wechat_identity
where org_id = $1 and app_id = $2 and openid = $3 and person_id = $4 and password_version = $5 for share`

// The person's other WeChat user, and a binding of this one that holds no more, whoever's it was.
const sqlUnbindOthers = `-- identity.UnbindOthers
delete from wechat_identity b using person p
where b.org_id = $1 and b.app_id = $2 and p.org_id = b.org_id and p.id = b.person_id
    and (b.person_id = $4 and b.openid <> $3
        or b.openid = $3 and (p.disabled_at is not null or p.password_version <> b.password_version))`

// Nothing where the WeChat user is somebody else's.
const sqlBindWeChat = `-- identity.BindWeChat
insert into wechat_identity as b (org_id, app_id, openid, unionid, person_id, password_version, bound_at)
values ($1, $2, $3, nullif($4, ''), $5, $6, $7)
on conflict (org_id, app_id, openid) do update set unionid = excluded.unionid, password_version = excluded.password_version,
    bound_at = excluded.bound_at
where b.person_id = excluded.person_id`

const sqlUnbindWeChat = `-- identity.UnbindWeChat
delete from wechat_identity where org_id = $1 and person_id = $2`
