/** Numbers of include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h, by their names there. Only those that are used. */

/** NFPROTO_*: include/uapi/linux/netfilter.h */
export const NFPROTO = { UNSPEC: 0, INET: 1, IPV4: 2, IPV6: 10 } as const;

/** NF_INET_*: the hooks. */
export const HOOK = { PRE_ROUTING: 0, LOCAL_IN: 1, FORWARD: 2, LOCAL_OUT: 3, POST_ROUTING: 4 } as const;

/** NF_DROP, NF_ACCEPT, and the verdicts of nf_tables, which are negative. */
export const VERDICT = {
  DROP: 0,
  ACCEPT: 1,
  CONTINUE: -1,
  BREAK: -2,
  JUMP: -3,
  GOTO: -4,
  RETURN: -5,
} as const;

/** enum nf_tables_msg_types */
export const MSG = {
  NEWTABLE: 0,
  GETTABLE: 1,
  DELTABLE: 2,
  NEWCHAIN: 3,
  GETCHAIN: 4,
  DELCHAIN: 5,
  NEWRULE: 6,
  GETRULE: 7,
  DELRULE: 8,
  NEWSET: 9,
  GETSET: 10,
  DELSET: 11,
  NEWSETELEM: 12,
  GETSETELEM: 13,
  DELSETELEM: 14,
  NEWGEN: 15,
  GETGEN: 16,
  NEWOBJ: 18,
  GETOBJ: 19,
} as const;

/** enum nft_list_attributes */
export const NFTA_LIST_ELEM = 1;
/** enum nft_table_attributes */
export const TABLE = { NAME: 1, FLAGS: 2, USE: 3, HANDLE: 4, USERDATA: 6, OWNER: 7 } as const;
/** NFT_TABLE_F_OWNER, since linux 5.12: the table belongs to a netlink socket, and goes away with it. */
export const TABLE_FLAG_OWNER = 2;
/** enum nft_chain_attributes */
export const CHAIN = {
  TABLE: 1,
  HANDLE: 2,
  NAME: 3,
  HOOK: 4,
  POLICY: 5,
  USE: 6,
  TYPE: 7,
  FLAGS: 10,
} as const;
/** enum nft_hook_attributes */
export const HOOK_ATTR = { HOOKNUM: 1, PRIORITY: 2, DEV: 3 } as const;
/** enum nft_rule_attributes */
export const RULE = {
  TABLE: 1,
  CHAIN: 2,
  HANDLE: 3,
  EXPRESSIONS: 4,
  COMPAT: 5,
  POSITION: 6,
  USERDATA: 7,
} as const;
/** enum nft_rule_compat_attributes */
export const COMPAT = { PROTO: 1, FLAGS: 2 } as const;
/** enum nft_set_attributes */
export const SET = {
  TABLE: 1,
  NAME: 2,
  FLAGS: 3,
  KEY_TYPE: 4,
  KEY_LEN: 5,
  DATA_TYPE: 6,
  DATA_LEN: 7,
  POLICY: 8,
  DESC: 9,
  ID: 10,
  TIMEOUT: 11,
  GC_INTERVAL: 12,
  USERDATA: 13,
  HANDLE: 16,
  EXPR: 17,
} as const;
/**
 * NFTA_SET_KEY_TYPE: the kernel ignores it, and nft(8) prints the elements as this type (nftables, include/datatype.h: enum
 * datatypes).
 */
export const KEY_TYPE = { IPADDR: 7, IP6ADDR: 8, MARK: 19, UID: 24 } as const;
/** enum nft_set_desc_attributes */
export const SET_DESC = { SIZE: 1, CONCAT: 2 } as const;
/** enum nft_set_flags */
export const SET_FLAG = { ANONYMOUS: 1, CONSTANT: 2, INTERVAL: 4, MAP: 8, TIMEOUT: 16, EVAL: 32 } as const;
/** enum nft_set_elem_list_attributes */
export const ELEM_LIST = { TABLE: 1, SET: 2, ELEMENTS: 3, SET_ID: 4 } as const;
/** enum nft_set_elem_attributes */
export const ELEM = { KEY: 1, DATA: 2, FLAGS: 3, TIMEOUT: 4, EXPR: 7, KEY_END: 10 } as const;
/** enum nft_set_elem_flags */
export const ELEM_FLAG = { INTERVAL_END: 1, CATCHALL: 2 } as const;

/** enum nft_expr_attributes */
export const EXPR = { NAME: 1, DATA: 2 } as const;
/** enum nft_data_attributes, enum nft_verdict_attributes */
export const DATA = { VALUE: 1, VERDICT: 2 } as const;
export const VERDICT_ATTR = { CODE: 1, CHAIN: 2 } as const;
/**
 * enum nft_registers: NFT_REG_VERDICT, NFT_REG_1 and NFT_REG_2 of 16 bytes each; R1_SECOND is NFT_REG32_01, the second four
 * bytes of NFT_REG_1.
 */
export const REG = { VERDICT: 0, R1: 1, R2: 2, R1_SECOND: 9 } as const;

/** The attributes of the expressions: enum nft_*_attributes. */
export const IMMEDIATE = { DREG: 1, DATA: 2 } as const;
export const BITWISE = { SREG: 1, DREG: 2, LEN: 3, MASK: 4, XOR: 5, OP: 6 } as const;
export const CMP = { SREG: 1, OP: 2, DATA: 3 } as const;
export const CMP_OP = { EQ: 0, NEQ: 1, LT: 2, LTE: 3, GT: 4, GTE: 5 } as const;
export const RANGE = { SREG: 1, OP: 2, FROM: 3, TO: 4 } as const;
export const LOOKUP = { SET: 1, SREG: 2, DREG: 3, SET_ID: 4, FLAGS: 5 } as const;
export const DYNSET = {
  SET_NAME: 1,
  SET_ID: 2,
  OP: 3,
  SREG_KEY: 4,
  SREG_DATA: 5,
  TIMEOUT: 6,
  EXPR: 7,
  FLAGS: 9,
} as const;
export const DYNSET_OP = { ADD: 0, UPDATE: 1, DELETE: 2 } as const;
export const PAYLOAD = { DREG: 1, BASE: 2, OFFSET: 3, LEN: 4 } as const;
export const PAYLOAD_BASE = { LINK: 0, NETWORK: 1, TRANSPORT: 2 } as const;
export const META = { DREG: 1, KEY: 2, SREG: 3 } as const;
/** enum nft_meta_keys */
export const META_KEY = {
  IIF: 4,
  OIF: 5,
  IIFNAME: 6,
  OIFNAME: 7,
  SKUID: 10,
  NFPROTO: 15,
  L4PROTO: 16,
} as const;
export const CT = { DREG: 1, KEY: 2, DIRECTION: 3, SREG: 4 } as const;
export const CT_KEY = { STATE: 0, STATUS: 2, ID: 23 } as const;
export const BYTEORDER = { SREG: 1, DREG: 2, OP: 3, LEN: 4, SIZE: 5 } as const;
/** enum nft_byteorder_ops */
export const BYTEORDER_HTON = 1;
export const EXTHDR = { DREG: 1, TYPE: 2, OFFSET: 3, LEN: 4, FLAGS: 5, OP: 6 } as const;
/** enum nft_exthdr_op */
export const EXTHDR_OP = { IPV6: 0, TCPOPT: 1, IPV4: 2 } as const;
/** NFT_EXTHDR_F_PRESENT: 1 where the header is there, 0 where it is not. */
export const EXTHDR_PRESENT = 1;
/** enum nft_object_attributes, enum nft_objref_attributes */
export const OBJECT = { TABLE: 1, NAME: 2, TYPE: 3, DATA: 4 } as const;
export const OBJREF = { IMM_TYPE: 1, IMM_NAME: 2 } as const;
/** NFT_OBJECT_COUNTER; its data are those of the expression, COUNTER. */
export const OBJECT_COUNTER = 1;
/** NFT_OBJECT_CT_TIMEOUT, enum nft_ct_timeout_timeout_attributes */
export const OBJECT_CT_TIMEOUT = 7;
export const CT_TIMEOUT = { L3PROTO: 1, L4PROTO: 2, DATA: 3 } as const;
/** enum ctattr_timeout_tcp (linux/netfilter/nfnetlink_cttimeout.h) */
export const TCP_TIMEOUT = { TIME_WAIT: 7, CLOSE: 8 } as const;
export const CONNLIMIT = { COUNT: 1, FLAGS: 2 } as const;
/** NFT_CONNLIMIT_F_INV: over the count, not under it. */
export const CONNLIMIT_OVER = 1;
export const LIMIT = { RATE: 1, UNIT: 2, BURST: 3, TYPE: 4, FLAGS: 5 } as const;
/** NFT_LIMIT_F_INV: over the rate. */
export const LIMIT_OVER = 1;
export const COUNTER = { BYTES: 1, PACKETS: 2 } as const;
/** enum nft_log_attributes */
export const LOG = { GROUP: 1, PREFIX: 2, SNAPLEN: 3, QTHRESHOLD: 4 } as const;
export const REJECT = { TYPE: 1, ICMP_CODE: 2 } as const;
export const REJECT_TYPE = { ICMP_UNREACH: 0, TCP_RST: 1, ICMPX_UNREACH: 2 } as const;
/** The extensions of x_tables inside nf_tables (net/netfilter/nft_compat.c): NFTA_MATCH_* and NFTA_TARGET_* are alike. */
export const XT = { NAME: 1, REV: 2, INFO: 3 } as const;

/** enum nft_gen_attributes */
export const GEN = { ID: 1, PROC_PID: 2, PROC_NAME: 3 } as const;
