import { pick } from "./i18n/index.js";

/**
 * Names of the choices of the field-sales pack, for a schema names its fields in both languages and its choices by their
 * codes alone. A choice that an organisation added itself is shown as it is written.
 */
const choices: Record<string, [zh: string, en: string]> = {
  "account.level.a": ["A", "A"],
  "account.level.b": ["B", "B"],
  "account.level.c": ["C", "C"],
  "account.level.d": ["D", "D"],
  "account.status.potential": ["潜在", "Potential"],
  "account.status.active": ["活跃", "Active"],
  "account.status.dormant": ["沉睡", "Dormant"],
  "account.status.lost": ["流失", "Lost"],
  "account.industry.machinery": ["机械", "Machinery"],
  "account.industry.electronics": ["电子", "Electronics"],
  "account.industry.chemicals": ["化工", "Chemicals"],
  "account.industry.food": ["食品", "Food"],
  "account.industry.medical": ["医疗", "Medical"],
  "account.industry.building": ["建筑", "Building"],
  "account.industry.energy": ["能源", "Energy"],
  "account.industry.retail": ["零售", "Retail"],
  "account.industry.logistics": ["物流", "Logistics"],
  "account.industry.other": ["其他", "Other"],
  "account.stage.contacted": ["初步接触", "Contacted"],
  "account.stage.proposal": ["方案", "Proposal"],
  "account.stage.negotiation": ["谈判", "Negotiation"],
  "account.stage.signing": ["签约中", "Signing"],
  "account.stage.won": ["成交", "Won"],
  "account.stage.lost": ["丢单", "Lost"],
  "contact.decision_role.decider": ["决策者", "Decides"],
  "contact.decision_role.influencer": ["影响者", "Influences"],
  "contact.decision_role.user": ["使用者", "Uses"],
  "contact.decision_role.gatekeeper": ["把关者", "Keeps the gate"],
  "visit.purpose.first_visit": ["首次拜访", "First visit"],
  "visit.purpose.follow_up": ["跟进", "Follow-up"],
  "visit.purpose.demo": ["演示", "Demo"],
  "visit.purpose.negotiation": ["谈判", "Negotiation"],
  "visit.purpose.service": ["服务", "Service"],
  "visit.purpose.collection": ["收款", "Collection"],
  "visit.outcome.interested": ["有意向", "Interested"],
  "visit.outcome.follow_up": ["需跟进", "Follow up"],
  "visit.outcome.won": ["成交", "Won"],
  "visit.outcome.lost": ["失败", "Lost"],
  "visit.outcome.no_contact": ["未见到人", "Nobody met"],
  "task.priority.low": ["低", "Low"],
  "task.priority.normal": ["普通", "Normal"],
  "task.priority.high": ["高", "High"],
  "quote.currency.CNY": ["人民币", "CNY"],
  "quote.currency.USD": ["美元", "USD"],
  "quote.currency.EUR": ["欧元", "EUR"],
  "quote.currency.HKD": ["港元", "HKD"],
  "quote.approval_state.draft": ["草稿", "Draft"],
  "quote.approval_state.waiting": ["待审批", "Waiting"],
  "quote.approval_state.approved": ["已批准", "Approved"],
  "quote.approval_state.rejected": ["已驳回", "Rejected"],
};

/** A choice in words. */
export function choiceText(kind: string, field: string, value: string): string {
  const known = choices[`${kind}.${field}.${value}`];
  return known ? pick(known[0], known[1]) : value;
}
