import { encodeAttributes, find, u32, u32Of, walkAttributes } from "../firewall/nftables/attributes.ts";
import { FLAG, type ReadMessage, readMessages } from "../firewall/nftables/batch.ts";
import { align, FLAG_REQUEST, HEADER_LENGTH, writeHeader } from "../identity/netlink/message.ts";

/**
 * NFLOG: packets that a rule logs to a group, as the kernel sends them to the process that has bound the group
 * (include/uapi/linux/netfilter/nfnetlink_log.h, net/netfilter/nfnetlink_log.c). Pure.
 */

/** NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG */
const TYPE_PACKET = 4 << 8;
const TYPE_CONFIG = (4 << 8) | 1;
/** NLMSG_ERROR: an acknowledgement too. */
const TYPE_ERROR = 2;
/** struct nfgenmsg: u8 nfgen_family, u8 version, __be16 res_id (the group). */
const GENERIC_LENGTH = 4;

/** enum nfulnl_attr_config, NFULNL_CFG_CMD_BIND, NFULNL_COPY_PACKET, NFULNL_CFG_F_SEQ */
const CONFIG = { CMD: 1, MODE: 2, NLBUFSIZ: 3, TIMEOUT: 4, QTHRESH: 5, FLAGS: 6 } as const;
const BIND = 1;
const COPY_PACKET = 2;
const NUMBERED = 1;
/** enum nfulnl_attr_type */
const PACKET = { IFINDEX_OUTDEV: 5, PAYLOAD: 9, UID: 11, SEQ: 12 } as const;

/** Bytes of a message beside the packet: headers and attributes, with room to spare. */
const MESSAGE_ROOM = 512;

/** A packet that a rule has logged. */
export interface LoggedPacket {
  readonly group: number;
  /** The uid in the credentials of the socket's file, which `meta skuid` also is; null for a packet without such a socket. */
  readonly uid: number | null;
  /** Counts the packets of the group, from 0; null where the kernel does not number them. */
  readonly sequence: number | null;
  /** The interface that it leaves by; null where the kernel does not say. */
  readonly outInterface: number | null;
  /** From the IP header on, cut to the rule's snaplen. Valid until the next message is read. */
  readonly bytes: DataView;
}

/**
 * The request that binds a group to the socket that sends it: packets up to `snaplen` bytes, each at once, numbered.
 * The kernel answers EPERM where another process has the group.
 */
export function encodeBind(group: number, snaplen: number, sequence: number): Uint8Array {
  // struct nfulnl_msg_config_mode: __be32 copy_range, u8 copy_mode, u8 pad.
  const mode = new Uint8Array(6);
  new DataView(mode.buffer).setUint32(0, snaplen, false);
  mode[4] = COPY_PACKET;
  const payload = encodeAttributes([
    // struct nfulnl_msg_config_cmd: u8 command.
    { type: CONFIG.CMD, value: Uint8Array.of(BIND) },
    { type: CONFIG.MODE, value: mode },
    u32(CONFIG.NLBUFSIZ, snaplen + MESSAGE_ROOM),
    u32(CONFIG.QTHRESH, 1),
    { type: CONFIG.FLAGS, value: Uint8Array.of(0, NUMBERED) },
  ]);
  const length = HEADER_LENGTH + GENERIC_LENGTH + payload.length;
  const out = new Uint8Array(align(length));
  const view = new DataView(out.buffer);
  writeHeader(view, TYPE_CONFIG, FLAG_REQUEST | FLAG.ACK, sequence, length);
  view.setUint16(HEADER_LENGTH + 2, group, false);
  out.set(payload, HEADER_LENGTH + GENERIC_LENGTH);
  return out;
}

/** The kernel's answer to a request: its error number, 0 for done; null where the datagram has none. */
export function readBindAnswer(datagram: DataView, sequence: number): number | null {
  for (const message of readMessages(datagram) ?? []) {
    if (message.type !== TYPE_ERROR || message.sequence !== sequence || message.payload.byteLength < 4)
      continue;
    return Math.abs(message.payload.getInt32(0, true));
  }
  return null;
}

/** The packets of one datagram; none where it has none or is damaged. */
export function readPackets(datagram: DataView): LoggedPacket[] {
  return (readMessages(datagram) ?? []).flatMap((message) => {
    const packet = message.type === TYPE_PACKET ? readPacket(message) : null;
    return packet === null ? [] : [packet];
  });
}

function readPacket({ payload }: ReadMessage): LoggedPacket | null {
  if (payload.byteLength < GENERIC_LENGTH) return null;
  const attributes = walkAttributes(payload, GENERIC_LENGTH);
  const bytes = attributes === null ? undefined : find(attributes, PACKET.PAYLOAD);
  if (attributes === null || bytes === undefined) return null;
  return {
    group: payload.getUint16(2, false),
    uid: u32Of(find(attributes, PACKET.UID)),
    sequence: u32Of(find(attributes, PACKET.SEQ)),
    outInterface: u32Of(find(attributes, PACKET.IFINDEX_OUTDEV)),
    bytes,
  };
}
