package demodata

// city is a place with customers: name, romanised name, dialling code, division code and a middle in GCJ-02.
type city struct {
	zh, en, dial, code string
	lat, lng           float64
	districts          []string
}

// region is a team of the second level with its cities.
type region struct {
	zh, en string
	cities []city
}

// words holds the vocabulary. It is built per Generate, so that the package has no state.
type words struct {
	regions                            []region
	surnames, given                    []string
	brandA, brandB, brandEN            []string
	suffixZH, suffixEN                 []string
	roadA, roadB, roadC                []string
	titles, titlesEN                   []string
	englishFirst, englishLast          []string
	tags, products                     []string
	industries                         []industry
	subjects, subjectsEN               map[string][]string
	opening, finding, competitor, next []string
	notesEN, tasks, remarks            []string
}

// industry is a choice of account.industry and how such a company calls its trade.
type industry struct {
	choice string
	zh, en []string
}

func vocabulary() *words {
	return &words{
		regions: []region{
			{"华东区", "East", []city{
				{"上海", "Shanghai", "021", "310115", 31.2304, 121.4737, []string{"浦东新区", "闵行区", "嘉定区", "松江区", "宝山区"}},
				{"苏州", "Suzhou", "0512", "320505", 31.2990, 120.5853, []string{"工业园区", "虎丘区", "吴中区", "相城区", "昆山市"}},
				{"杭州", "Hangzhou", "0571", "330108", 30.2741, 120.1551, []string{"滨江区", "余杭区", "萧山区", "临平区"}},
				{"宁波", "Ningbo", "0574", "330206", 29.8683, 121.5440, []string{"北仑区", "鄞州区", "镇海区"}},
			}},
			{"华南区", "South", []city{
				{"深圳", "Shenzhen", "0755", "440306", 22.5431, 114.0579, []string{"宝安区", "龙岗区", "南山区", "光明区"}},
				{"广州", "Guangzhou", "020", "440112", 23.1291, 113.2644, []string{"黄埔区", "番禺区", "白云区", "南沙区"}},
				{"东莞", "Dongguan", "0769", "441900", 23.0207, 113.7518, []string{"长安镇", "松山湖", "厚街镇", "塘厦镇"}},
				{"佛山", "Foshan", "0757", "440606", 23.0215, 113.1214, []string{"顺德区", "南海区", "禅城区"}},
			}},
			{"华北区", "North", []city{
				{"北京", "Beijing", "010", "110115", 39.9042, 116.4074, []string{"大兴区", "亦庄", "昌平区", "海淀区"}},
				{"天津", "Tianjin", "022", "120116", 39.0842, 117.2009, []string{"滨海新区", "西青区", "北辰区"}},
				{"青岛", "Qingdao", "0532", "370211", 36.0671, 120.3826, []string{"黄岛区", "城阳区", "即墨区"}},
				{"济南", "Jinan", "0531", "370112", 36.6512, 117.1201, []string{"历城区", "章丘区", "高新区"}},
			}},
			{"西南区", "Southwest", []city{
				{"成都", "Chengdu", "028", "510112", 30.5728, 104.0668, []string{"龙泉驿区", "双流区", "郫都区", "新都区"}},
				{"重庆", "Chongqing", "023", "500112", 29.5630, 106.5516, []string{"渝北区", "北碚区", "九龙坡区", "江津区"}},
				{"昆明", "Kunming", "0871", "530114", 24.8801, 102.8329, []string{"呈贡区", "官渡区", "安宁市"}},
				{"贵阳", "Guiyang", "0851", "520115", 26.6470, 106.6302, []string{"观山湖区", "白云区", "花溪区"}},
			}},
		},
		surnames: []string{"王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴", "徐", "孙", "胡", "朱", "高", "林", "何", "郭", "马", "罗",
			"梁", "宋", "郑", "谢", "韩", "唐", "冯", "于", "董", "萧", "程", "曹", "袁", "邓", "许", "傅", "沈", "曾", "彭", "吕", "欧阳", "上官"},
		given: []string{"伟", "芳", "娜", "敏", "静", "磊", "洋", "艳", "勇", "军", "杰", "娟", "涛", "明", "超", "霞", "平", "刚", "思远", "雨桐",
			"子涵", "浩然", "欣怡", "建国", "志强", "晓东", "丽华", "文博", "嘉豪", "梦洁", "海燕", "国栋", "永康", "淑珍", "立新", "若溪", "景行", "一鸣", "舒曼", "云帆"},
		brandA: []string{"恒", "鼎", "瑞", "宏", "盛", "华", "信", "博", "汇", "金", "远", "新", "长", "中", "天", "联", "永", "德", "嘉", "卓",
			"东", "通", "万", "正", "弘", "泰", "锦", "凯", "启", "云"},
		brandB: []string{"远", "盛", "达", "泰", "源", "创", "腾", "辉", "峰", "诚", "力", "科", "宇", "丰", "润", "捷", "安", "和", "昌", "邦",
			"越", "兴", "康", "铭", "格", "拓", "凌", "朗", "森", "岳"},
		brandEN: []string{"Northgate", "Bluepeak", "Harbourline", "Silverbrook", "Redwood Bay", "Clearwater", "Ironbridge", "Lakeshore", "Meridian Hill",
			"Oakfield", "Pinecrest", "Stonegate", "Westmark", "Brightwell", "Copperfield Lane", "Eastwind", "Foxglove", "Greystone", "Highmoor", "Juniper Row",
			"Kestrel", "Longmeadow", "Millbank", "Orchard Park", "Quayside", "Ravenhill", "Summerfield", "Thornbury", "Umberline", "Windermoor"},
		suffixZH: []string{"有限公司", "有限公司", "有限公司", "股份有限公司", "集团有限公司", "有限责任公司"},
		suffixEN: []string{"Ltd.", "Co., Ltd.", "Inc.", "GmbH", "Group"},
		roadA:    []string{"星", "金", "长", "新", "望", "云", "创", "科", "和", "永", "春", "江", "东", "学", "祥", "龙", "凤", "松", "兴", "明"},
		roadB:    []string{"湖", "江", "泰", "华", "山", "海", "业", "技", "平", "安", "晓", "滨", "林", "苑", "和", "腾", "鸣", "涛", "隆", "珠"},
		roadC:    []string{"路", "路", "路", "大道", "街", "东路", "西路", "南路", "北路", "中路"},
		titles:   []string{"采购经理", "采购总监", "总经理", "设备科长", "生产主管", "财务经理", "技术总监", "仓储主管", "品质经理", "采购员", "厂长", "副总经理"},
		titlesEN: []string{"Purchasing Manager", "Head of Procurement", "General Manager", "Plant Manager", "Finance Manager", "Technical Director", "Quality Manager", "Buyer"},
		englishFirst: []string{"Alice", "Brian", "Carla", "Derek", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karen", "Louis", "Maria", "Nolan",
			"Olivia", "Peter", "Quentin", "Rosa", "Simon", "Tessa"},
		englishLast: []string{"Abbott", "Barlow", "Curtis", "Dawson", "Ellwood", "Fenton", "Garner", "Hartley", "Ingram", "Jarvis", "Kendrick", "Lawson",
			"Merton", "Norris", "Ogden", "Penrose", "Rowland", "Sutton", "Tilley", "Wexford"},
		tags:     []string{"重点客户", "老客户", "展会", "转介绍", "价格敏感", "账期长", "年度框架", "竞品在用", "海外", "新厂", "环保要求", "KA"},
		products: []string{"SX-100 传感器", "SX-200 传感器", "MT-7 电机", "MT-9 电机", "VR-30 阀组", "VR-50 阀组", "PLC-C2 控制器", "HMI-12 触摸屏", "年度维保", "备件包"},
		industries: []industry{
			{"machinery", []string{"精密机械", "重工", "数控设备", "液压机械"}, []string{"Machinery", "Bearings", "Hydraulics"}},
			{"electronics", []string{"电子科技", "光电", "半导体材料", "智能装备"}, []string{"Electronics", "Optics", "Semicon"}},
			{"chemicals", []string{"化工", "新材料", "涂料"}, []string{"Chemicals", "Coatings"}},
			{"food", []string{"食品", "乳业", "饮料", "粮油"}, []string{"Foods", "Dairy", "Beverages"}},
			{"medical", []string{"医疗器械", "生物医药", "药业"}, []string{"Medical", "Biotech"}},
			{"building", []string{"建材", "建筑工程", "钢结构"}, []string{"Building Supplies", "Steel Structures"}},
			{"energy", []string{"新能源", "电力设备", "光伏"}, []string{"Energy", "Power Systems"}},
			{"retail", []string{"商贸", "百货", "供应链"}, []string{"Trading", "Retail"}},
			{"logistics", []string{"物流", "仓储", "国际货运"}, []string{"Logistics", "Freight"}},
			{"other", []string{"实业", "科技", "包装"}, []string{"Industries", "Packaging"}},
		},
		subjects: map[string][]string{
			"first_visit": {"初次拜访，了解产线情况", "首次见面，介绍公司与产品"},
			"follow_up":   {"跟进上次报价", "例行回访", "跟进样品测试结果"},
			"demo":        {"现场演示控制器", "样机试用安排"},
			"negotiation": {"商务谈判：价格与账期", "合同条款沟通"},
			"service":     {"设备维保回访", "处理现场故障反馈"},
			"collection":  {"催收货款", "对账与回款安排"},
		},
		subjectsEN: map[string][]string{
			"first_visit": {"First meeting at the plant", "Introducing our range"},
			"follow_up":   {"Follow-up on the last quote", "Follow-up on the sample test"},
			"demo":        {"Product demonstration on site"},
			"negotiation": {"Negotiation of price and terms", "Going through the contract"},
			"service":     {"Service call about the valve unit", "Yearly maintenance"},
			"collection":  {"Settling the open invoices"},
		},
		opening:    []string{"今天与{name}见面，", "上午到厂区拜访{name}，", "下午在会议室与{name}沟通，", "陪同技术同事一起拜访{name}，", "{name}带我们参观了车间，"},
		finding:    []string{"对方对{product}比较感兴趣，", "现有产线准备在下季度改造，需要{product}，", "目前库存还能用两个月，", "对交期要求较高，希望四周内到货，", "预算已经批下来，正在比价，", "反映上一批{product}运行稳定，"},
		competitor: []string{"竞品报价比我们低约百分之五。", "另一家供应商上周刚来过。", "暂时没有接触其他厂家。", "技术部门更认可我们的方案。", "价格仍是主要顾虑。"},
		next:       []string{"约定下周发送正式报价。", "下一步安排样机测试。", "等对方内部评审后再联系。", "需要协调工程师出一份选型方案。", "月底前确认账期。", "已把资料发到对方邮箱。"},
		notesEN: []string{"Met {name}. They want {product} for the second line and ask for four weeks' delivery.", "{name} walked us through the shop floor. Price is still the open point; a revised offer goes out this week.",
			"Short call on {name}. Stock lasts two more months, talk again after the audit.", "{name} confirmed the budget. A competitor was in last week with a lower price on {product}."},
		tasks:   []string{"发送{product}报价", "安排样机测试", "准备合同草稿", "确认账期与付款方式", "预约下次拜访时间", "邮寄样品", "核对发票信息", "整理选型方案"},
		remarks: []string{"门卫需登记，提前一天报车牌。", "决策链较长，需同时跟进技术与采购。", "每年三月集中采购。", "老板重视售后响应速度。", "付款习惯良好。", "对环保资质有硬性要求。"},
	}
}
