/**
 * A program in place of QEMU. It speaks qtest and QMP well enough for a machine with one device, and deviates where its
 * plan says so. The plan is its last argument, as JSON.
 */
import { Socket } from 'node:net';

/** A deviation in place of one of the answers. */
export interface PeerFault {
  readonly socket: 'qmp' | 'qtest';
  /** Which answer on that socket, counted from 0 (the greeting of QMP is its first), or a part of the command. */
  readonly at: number | string;
  /**
   * `instead` and `before` send a text, `raw` one without line feed, `cut` half of the answer before it closes the
   * socket; `close` closes it, `silence` omits the answer, `exit` ends the peer, `both` closes both sockets.
   */
  readonly kind: 'instead' | 'before' | 'raw' | 'cut' | 'close' | 'both' | 'silence' | 'exit';
  /** Pieces, each sent so many times; `ID` stands for the id of the command. */
  readonly text?: string | readonly (readonly [piece: string, times: number])[];
}

/** The plan of the peer. */
export interface PeerPlan {
  readonly faults: readonly PeerFault[];
  /** The maximum number of bytes per write; 0: unlimited. */
  readonly piece: number;
}

/** The place of the peer's one device, and its ids. */
export const PEER_DEVICE = {
  id: 'edu0',
  slot: 4,
  address: '0000:00:04.0',
  ids: 0x11e8_1234,
  barSize: 0x10_0000,
} as const;
/** The content of its memory, by address. */
export function peerMemory(address: number): number {
  return (address * 7 + 3) & 0xff;
}

const HOTPLUG = { down: 0xae04, eject: 0xae08 } as const;

class Peer {
  readonly #plan: PeerPlan;
  readonly #sockets = { qtest: new Socket({ fd: 3 }), qmp: new Socket({ fd: 4 }) };
  readonly #said = { qtest: 0, qmp: 0 };
  /** Configuration space of the device, in bytes. */
  readonly #config = new DataView(new ArrayBuffer(256));
  #selected = 0;
  #leaving = false;
  #there = true;

  constructor(plan: PeerPlan) {
    this.#plan = plan;
    this.#config.setUint32(0, PEER_DEVICE.ids, true);
    this.#config.setUint8(0x3d, 1);
    this.#config.setUint32(0x08, 0x00ff_0000, true);
    for (const name of ['qtest', 'qmp'] as const) {
      let rest = '';
      const socket = this.#sockets[name];
      socket.setEncoding('latin1').on('data', (text: string) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop()!;
        for (const line of lines) this.#say(name, name === 'qtest' ? this.#qtest(line) : this.#qmp(line), line);
      });
      socket.on('error', () => undefined);
    }
    this.#say('qmp', '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}', '');
    // Like QEMU it continues when its sockets are closed.
    setInterval(() => undefined, 60_000);
  }

  #say(name: 'qtest' | 'qmp', answer: string, command: string): void {
    const index = this.#said[name]++;
    const fault = this.#plan.faults.find(
      ({ socket, at }) => socket === name && (typeof at === 'number' ? at === index : command.includes(at)),
    );
    const socket = this.#sockets[name];
    const id = /"id":(\d+)/.exec(command)?.[1] ?? '0';
    const pieces = typeof fault?.text === 'string' ? ([[fault.text, 1]] as const) : (fault?.text ?? []);
    const text = pieces.map(([piece, times]) => piece.replaceAll('ID', id).repeat(times)).join('');
    switch (fault?.kind) {
      case undefined:
        this.#write(socket, `${answer}\n`);
        break;
      case 'instead':
        this.#write(socket, `${text}\n`);
        break;
      case 'before':
        this.#write(socket, `${text}\n${answer}\n`);
        break;
      case 'raw':
        this.#write(socket, text);
        break;
      case 'cut':
        this.#write(socket, answer.slice(0, answer.length >> 1));
        socket.end();
        break;
      case 'close':
        socket.destroy();
        break;
      case 'both':
        for (const each of Object.values(this.#sockets)) each.destroy();
        break;
      case 'silence':
        break;
      case 'exit':
        process.exit(this.#said.qmp & 1);
    }
  }

  #write(socket: Socket, text: string): void {
    const { piece } = this.#plan;
    if (piece === 0 || text.length > 1000 * piece) socket.write(text);
    else for (let at = 0; at < text.length; at += piece) socket.write(text.slice(at, at + piece));
  }

  #qtest(line: string): string {
    const [command = '', ...words] = line.split(' ');
    const [first = 0, second = 0] = words.map(Number);
    const width = { b: 1, w: 2, l: 4, q: 8 }[command.at(-1)!] ?? 0;
    const hex = (value: number | bigint): string => `OK 0x${value.toString(16).padStart(4, '0')}`;
    if (/^in[bwl]$/.test(command)) return hex(this.#readPort(first, width));
    if (/^out[bwl]$/.test(command)) this.#writePort(first, width, second);
    if (/^read[bwlq]$/.test(command)) {
      let value = 0n;
      for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(peerMemory(first + i));
      return hex(value);
    }
    if (command === 'b64read') {
      return `OK ${Buffer.from(Array.from({ length: second }, (_, i) => peerMemory(first + i))).toString('base64')}`;
    }
    return 'OK';
  }

  #readPort(port: number, width: number): number {
    const ones = 2 ** (width * 8) - 1;
    if (port === HOTPLUG.down) return this.#leaving ? 2 ** PEER_DEVICE.slot : 0;
    if (port < 0xcfc || port > 0xcff) return ones;
    const offset = (this.#selected & 0xfc) + (port & 3);
    const where = (this.#selected & 0xff_ff00) >>> 0;
    if (where !== PEER_DEVICE.slot * 0x800 || !this.#there) return ones;
    if (width === 1) return this.#config.getUint8(offset);
    return width === 2 ? this.#config.getUint16(offset, true) : this.#config.getUint32(offset, true);
  }

  #writePort(port: number, width: number, value: number): void {
    if (port === 0xcf8) this.#selected = value;
    if (port === HOTPLUG.eject && this.#leaving) {
      this.#leaving = this.#there = false;
      this.#sockets.qmp.write(`{"event": "DEVICE_DELETED", "data": {"device": "${PEER_DEVICE.id}"}}\n`);
    }
    const offset = (this.#selected & 0xfc) + (port & 3);
    if (port < 0xcfc || port > 0xcff || (this.#selected & 0xff_ff00) !== PEER_DEVICE.slot * 0x800) return;
    if (offset === 0x04 && width === 2) this.#config.setUint16(offset, value & 0x0407, true);
    if (offset === 0x10) this.#config.setUint32(offset, (value & -PEER_DEVICE.barSize) >>> 0, true);
  }

  #qmp(line: string): string {
    const { execute, id } = JSON.parse(line) as { readonly execute: string; readonly id: number };
    const answers: Readonly<Record<string, unknown>> = {
      qmp_capabilities: {},
      'query-pci': [
        { bus: 0, devices: [{ bus: 0, slot: PEER_DEVICE.slot, function: 0, qdev_id: PEER_DEVICE.id, class_info: {} }] },
      ],
      'query-status': { running: true, status: 'running' },
      stop: {},
      cont: {},
      device_del: {},
      'qom-list': [{ name: 'type', type: 'string' }, ...(this.#there ? [{ name: PEER_DEVICE.id, type: 'edu' }] : [])],
      quit: {},
    };
    if (execute === 'device_del') this.#leaving = true;
    if (execute === 'quit') setImmediate(() => process.exit(0));
    return Object.hasOwn(answers, execute)
      ? JSON.stringify({ return: answers[execute], id })
      : JSON.stringify({ error: { class: 'CommandNotFound', desc: `no ${execute}` }, id });
  }
}

if (process.argv.includes('-qtest')) new Peer(JSON.parse(process.argv.at(-1)!) as PeerPlan);
