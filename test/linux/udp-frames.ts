/**
 * UDP (RFC 768) in IPv4 (RFC 791) in Ethernet frames, and ARP (RFC 826). The peer at the other end of the wire is the
 * kernel's network stack.
 */
import assert from 'node:assert/strict';

/** The addresses of one end. */
export interface Endpoint {
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** 4 bytes. */
  readonly ip: Uint8Array;
  readonly port: number;
}

/** A received datagram, with the endpoints that its headers name. */
export interface Datagram {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly payload: Uint8Array;
}

/** An ARP message: the sender, and the address that it resolves. */
export interface ArpMessage {
  readonly isRequest: boolean;
  readonly senderMac: Uint8Array;
  readonly senderIp: Uint8Array;
  readonly targetIp: Uint8Array;
}

const ETHERNET = 14;
const TYPE_IPV4 = 0x0800;
const TYPE_ARP = 0x0806;
const IPV4 = 20;
const UDP = 8;
const PROTOCOL_UDP = 17;
const ARP_LENGTH = 28;
/** Ethernet hardware, IPv4 protocol, addresses of 6 and 4 bytes. */
const ARP_KIND = [0, 1, 8, 0, 6, 4];
const EVERYBODY = new Uint8Array(6).fill(0xff);

/** Longest datagram without fragmentation, at the usual MTU of 1500 bytes. */
export const MAX_PAYLOAD: number = 1500 - IPV4 - UDP;

/** `10.0.0.1` as bytes. */
export function ipBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split('.'), Number);
}

/** `52:54:00:12:34:56` as bytes. */
export function macBytes(text: string): Uint8Array {
  return Uint8Array.from(text.split(':'), (part) => parseInt(part, 16));
}

/** The ones' complement sum (RFC 1071) of bytes, added to an earlier sum. */
function sum(bytes: Uint8Array, start = 0): number {
  let total = start;
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

/** Sum of UDP's pseudo header: both addresses, the protocol, the length. */
function pseudoSum(from: Uint8Array, to: Uint8Array, length: number): number {
  return sum(to, sum(from, PROTOCOL_UDP + length));
}

function writeEthernet(into: Uint8Array, to: Uint8Array, from: Uint8Array, type: number): void {
  into.set(to, 0);
  into.set(from, 6);
  into[12] = type >> 8;
  into[13] = type & 0xff;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Writes a datagram's frame to the start of `into`; returns its length. */
export function writeUdp(into: Uint8Array, from: Endpoint, to: Endpoint, payload: Uint8Array): number {
  const length = UDP + payload.length;
  writeEthernet(into, to.mac, from.mac, TYPE_IPV4);
  const header = into.subarray(ETHERNET, ETHERNET + IPV4).fill(0);
  const ip = viewOf(header);
  ip.setUint8(0, 0x45); // version 4, 5 words
  ip.setUint16(2, IPV4 + length);
  ip.setUint16(6, 0x4000); // don't fragment
  ip.setUint8(8, 64); // time to live
  ip.setUint8(9, PROTOCOL_UDP);
  header.set(from.ip, 12);
  header.set(to.ip, 16);
  ip.setUint16(10, ~sum(header) & 0xffff);
  const datagram = into.subarray(ETHERNET + IPV4, ETHERNET + IPV4 + length);
  const udp = viewOf(datagram);
  udp.setUint16(0, from.port);
  udp.setUint16(2, to.port);
  udp.setUint16(4, length);
  udp.setUint16(6, 0);
  datagram.set(payload, UDP);
  const checksum = ~sum(datagram, pseudoSum(from.ip, to.ip, length)) & 0xffff;
  // 0 means "no checksum".
  udp.setUint16(6, checksum === 0 ? 0xffff : checksum);
  return ETHERNET + IPV4 + length;
}

/** The datagram in a frame, or null for any other frame. Fails when a length or checksum is wrong. */
export function readUdp(frame: Uint8Array): Datagram | null {
  const view = viewOf(frame);
  if (view.getUint16(12) !== TYPE_IPV4 || frame[ETHERNET + 9] !== PROTOCOL_UDP) return null;
  assert.equal(frame[ETHERNET], 0x45, 'IPv4 without options');
  const header = frame.subarray(ETHERNET, ETHERNET + IPV4);
  assert.equal(sum(header), 0xffff, 'checksum of the IPv4 header');
  // Short frames have padding behind the packet.
  const end = ETHERNET + view.getUint16(ETHERNET + 2);
  assert.ok(end <= frame.length, 'length of the IPv4 packet');
  const datagram = frame.subarray(ETHERNET + IPV4, end);
  const udp = viewOf(datagram);
  assert.equal(udp.getUint16(4), datagram.length, 'length of the datagram');
  const ends = [header.subarray(12, 16), header.subarray(16, 20)] as const;
  assert.equal(sum(datagram, pseudoSum(...ends, datagram.length)), 0xffff, 'checksum of the datagram');
  return {
    from: { mac: frame.subarray(6, 12), ip: ends[0], port: udp.getUint16(0) },
    to: { mac: frame.subarray(0, 6), ip: ends[1], port: udp.getUint16(2) },
    payload: datagram.subarray(UDP),
  };
}

/** Writes an ARP request for an address to the start of `into`, or with `to` a reply; returns its length. */
export function writeArp(into: Uint8Array, from: Endpoint, targetIp: Uint8Array, to?: Uint8Array): number {
  writeEthernet(into, to ?? EVERYBODY, from.mac, TYPE_ARP);
  const body = into.subarray(ETHERNET, ETHERNET + ARP_LENGTH).fill(0);
  body.set(ARP_KIND);
  body[7] = to === undefined ? 1 : 2;
  body.set(from.mac, 8);
  body.set(from.ip, 14);
  body.set(to ?? [], 18);
  body.set(targetIp, 24);
  return ETHERNET + ARP_LENGTH;
}

/** The ARP message in a frame, or null for any other frame. */
export function readArp(frame: Uint8Array): ArpMessage | null {
  if (viewOf(frame).getUint16(12) !== TYPE_ARP) return null;
  const body = frame.subarray(ETHERNET, ETHERNET + ARP_LENGTH);
  assert.deepEqual([...body.subarray(0, 6)], ARP_KIND);
  return {
    isRequest: body[7] === 1,
    senderMac: body.slice(8, 14),
    senderIp: body.slice(14, 18),
    targetIp: body.slice(24, 28),
  };
}
