/**
 * Fuzz target `qmp`: a peer in place of QEMU answers correctly, wrongly, in pieces or not at all while public calls are in
 * flight. Each call ends in bounded time with a value or a `DmaError`, and without a fault with the correct value.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { DmaError } from 'dmapool';
import { QemuMachine } from 'dmapool/qemu';
import { MachineBus } from '../../src/qemu/bus.ts';
import { QmpClient } from '../../src/qemu/qmp.ts';
import { QtestClient } from '../../src/qemu/qtest.ts';
import { PEER_DEVICE, type PeerFault, peerMemory } from '../qemu/peer.ts';
import { isAlive, peerInFolder } from '../qemu/qemu.ts';
import { until } from '../support/until.ts';
import { Random } from '../support/random.ts';
import type { FuzzTarget } from './target.ts';

/** Time limit of a call in milliseconds, far above the time-outs of the machine. */
const PATIENCE = 12_000;
const COMMAND_TIMEOUT = 3000;

/** Lines that violate the protocol at any point, and valid events. */
const QMP_GARBAGE: readonly string[] = [
  ...[
    'null',
    '7',
    '[]',
    '"x"',
    '{',
    '}',
    '{}',
    'not JSON',
    '\u0000',
    '{"QMP": {}}',
    '{"QMP": null}',
    '{"QMP": 1, "id": ID}',
  ],
  ...[
    '{"event": 1}',
    '{"event": "STOP", "data": 1}',
    '{"event": "STOP", "data": null}',
    '{"return": {}}',
    '{"return": {}, "id": 9999}',
  ],
  ...[
    '{"return": {}, "id": null}',
    '{"return": {}, "id": "ID"}',
    '{"error": "x", "id": ID}',
    '{"error": null, "id": ID}',
  ],
  ...[
    '{"error": {"class": "x"}, "id": ID}',
    '{"error": {"desc": 1}, "id": ID}',
    '{"error": {"desc": "x"}}',
    '{"id": ID}',
  ],
  ...[
    '{"return": 1, "error": {"class": "x", "desc": "y"}, "id": ID}',
    '{"QMP": {"version": {"qemu": {"major": "7", "minor": 2}}}}',
  ],
];
const QMP_EVENTS: readonly string[] = [
  ...['', '{"event": "STOP", "data": {}, "timestamp": {"seconds": 1}}', '{"event": "RESUME"}'],
  ...['{"event": "DEVICE_DELETED", "data": {"path": "/x"}}', '{"event": "DEVICE_DELETED", "data": {"device": 7}}'],
  ...[
    '{"event": "DEVICE_DELETED", "data": {"device": ""}}',
    '{"event": "DEVICE_DELETED", "data": {"device": "other"}}',
  ],
  ...['{"event": "__proto__", "data": {"__proto__": {"device": "edu0"}}}'],
];
/** Malformed answers to commands with a result. */
const SHAPES: Readonly<Record<'query-pci' | 'query-status', readonly string[]>> = {
  'query-pci': ['null', '{}', '[null]', '[{}]', '[{"devices": [null]}]', '[{"devices": [{}]}]'],
  'query-status': ['null', '7', '[]', '{}', '{"running": 1}'],
};
const QTEST_GARBAGE: readonly string[] = [
  ...[
    '',
    ' ',
    'ok',
    'OKAY',
    'IRQ',
    'IRQ raise',
    'IRQ raise 24',
    'IRQ raise 99999999999',
    'IRQ lower -1',
    'IRQ toggle 1',
  ],
  ...['\u0000', '{"return": {}}', 'OK\u00000x1', 'FAILED'],
];
const QTEST_EVENTS: readonly string[] = ['IRQ raise 10', 'IRQ lower 10', 'IRQ raise 0', 'IRQ lower 23'];
/** Invalid in place of a 32-bit number, and of 3 bytes in base64: none has 4 characters, which could be such bytes. */
const VALUES: readonly string[] = [
  '',
  ' ',
  ' 0x',
  ' 0x12g',
  ' 12',
  ' -0x12',
  ' 0x1ffffffff',
  ' NaN',
  ' 0x1 0x2',
  ' AA==',
  ' AAAAAAAA',
  ' !!!!',
];

/** The result of a fault for the caller: none, an error with the code, or any value or error. */
type Effect = 'none' | 'any' | 'ERR_DMAPOOL_QEMU_PROTOCOL';

interface Case {
  readonly fault: PeerFault | null;
  readonly effect: Effect;
}

/** Positions or parts of commands that every case sends. */
const QMP_PLACES: readonly (number | string)[] = [0, 'qmp_capabilities', 'query-pci', 'query-status'];
const QTEST_PLACES: readonly (number | string)[] = [0, 3, 40, 'b64read'];

function draw(random: Random): Case {
  const broken = 'ERR_DMAPOOL_QEMU_PROTOCOL';
  const onQmp = random.below(2) === 0;
  const socket = onQmp ? 'qmp' : 'qtest';
  const at = random.pick(onQmp ? QMP_PLACES : QTEST_PLACES);
  switch (random.below(12)) {
    case 0:
      return { fault: null, effect: 'none' };
    case 1: {
      const events = onQmp ? QMP_EVENTS : QTEST_EVENTS;
      const text = Array.from({ length: 1 + random.below(20) }, () => random.pick(events)).join('\n');
      return { fault: { socket, at, kind: 'before', text }, effect: 'none' };
    }
    case 2:
    case 3:
      return {
        fault: { socket, at, kind: 'before', text: random.pick(onQmp ? QMP_GARBAGE : QTEST_GARBAGE) },
        effect: broken,
      };
    case 4:
    case 5:
      return {
        fault: { socket, at, kind: 'instead', text: random.pick(onQmp ? QMP_GARBAGE : QTEST_GARBAGE) },
        effect: broken,
      };
    case 6: {
      const command = random.pick(['query-pci', 'query-status'] as const);
      const text = `{"return": ${random.pick(SHAPES[command])}, "id": ID}`;
      return { fault: { socket: 'qmp', at: command, kind: 'instead', text }, effect: broken };
    }
    case 7: {
      const text = `OK${random.pick(VALUES)}`;
      return {
        fault: { socket: 'qtest', at: random.pick(['b64read', 'readl', 'inl']), kind: 'instead', text },
        effect: broken,
      };
    }
    case 8: {
      // A device with arbitrary register values.
      const text = `OK 0x${random.next().toString(16)}`;
      return { fault: { socket: 'qtest', at: random.below(300), kind: 'instead', text }, effect: 'any' };
    }
    case 9:
      return { fault: { socket, at, kind: random.pick(['close', 'cut', 'both'] as const) }, effect: broken };
    case 10:
      return { fault: { socket, at, kind: random.below(6) === 0 ? 'silence' : 'exit' }, effect: 'any' };
    default:
      return {
        fault: { socket, at, kind: 'raw', text: [['x'.repeat(1 << 16), onQmp ? 257 : 33]] },
        effect: broken,
      };
  }
}

/** Waits for a call, which must end in time with a value or a `DmaError`. Returns either. */
async function ends(what: string, call: Promise<unknown>): Promise<unknown> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new assert.AssertionError({ message: `${what} has not ended after ${String(PATIENCE)} ms` }));
    }, PATIENCE);
  });
  try {
    return await Promise.race([call, late]);
  } catch (error) {
    assert.ok(error instanceof DmaError, `${what} ends with ${String(error)}`);
    assert.ok(error.message.length < 20_000);
    return error;
  } finally {
    clearTimeout(timer);
  }
}

/** Starts each public call once, in random order. Returns name, promise and expected value of each. */
function calls(machine: QemuMachine, random: Random): [what: string, call: Promise<unknown>, value: unknown][] {
  const address = random.below(1000);
  const all: [string, () => Promise<unknown>, unknown][] = [
    ['readMemory', () => machine.readMemory(address, 3), Uint8Array.from([0, 1, 2], (i) => peerMemory(address + i))],
    ['query-status', () => machine.qmp('query-status'), { running: true, status: 'running' }],
    ['readPort', () => machine.readPort(0x70, 32), 0xffff_ffff],
    ['writeMemory', () => machine.writeMemory(address, new Uint8Array(5)), undefined],
    [
      'read32',
      () => registerOf(machine),
      [0, 1, 2, 3].reduce((sum, i) => sum + peerMemory(0xc000_0000 + i) * 256 ** i, 0),
    ],
  ];
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j]!, all[i]!];
  }
  machine.writePort(0x80, 8, 1);
  return all.map(([what, call, value]) => [what, call(), value]);
}

async function registerOf(machine: QemuMachine): Promise<number> {
  const pci = await machine.open(PEER_DEVICE.id);
  try {
    return await pci.bar(0).read32(0);
  } finally {
    await pci.close();
  }
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

async function run(binary: string, random: Random): Promise<void> {
  const { fault, effect } = draw(random);
  const plan = { faults: fault === null ? [] : [fault], piece: random.below(2) === 0 ? 0 : 1 + random.below(50) };
  const unhandled: unknown[] = [];
  const onUnhandled = (error: unknown): void => {
    unhandled.push(error);
  };
  process.on('unhandledRejection', onUnhandled);
  const before = openFiles();
  const seen: unknown[] = [];
  let pid = 0;
  try {
    const start = QemuMachine.start({
      binary,
      args: [JSON.stringify(plan)],
      startTimeout: 8000,
      commandTimeout: COMMAND_TIMEOUT,
    });
    const machine = await ends('start', start);
    if (machine instanceof QemuMachine) {
      ({ pid } = machine);
      const inFlight = calls(machine, random);
      for (const [what, call, value] of inFlight) {
        const got = await ends(what, call);
        seen.push(got);
        if (effect === 'none') assert.deepEqual(got, value, what);
      }
      seen.push(await ends('unplug', machine.unplug(PEER_DEVICE.id, { timeout: 1000 })));
      if (effect === 'none') {
        assert.equal(seen.at(-1), undefined);
        assert.deepEqual(machine.functions, []);
        assert.ok(!machine.ended.aborted);
      }
      if (machine.ended.aborted) seen.push(await ends('a later call', machine.readMemory(0, 1)));
      await ends('close', machine.close());
    } else {
      seen.push(machine);
      assert.notEqual(effect, 'none', String(machine));
    }
    if (effect === 'ERR_DMAPOOL_QEMU_PROTOCOL') {
      assert.ok(
        seen.some((end) => end instanceof DmaError && end.code === effect),
        `${JSON.stringify(fault)?.slice(0, 300)} is not reported: ${seen.map(String).join(', ')}`,
      );
    }
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(unhandled, []);
    assert.ok(pid === 0 || !isAlive(pid), 'the process has ended');
    await until('no socket is left', () => openFiles() <= before);
  } finally {
    process.off('unhandledRejection', onUnhandled);
  }
}

/** Tests a client on a stream without a process: faster, and its exceptions are thrown here. */
async function direct(random: Random): Promise<void> {
  const stream = new Duplex({
    read: () => undefined,
    write: (_chunk, _encoding, done) => {
      done();
    },
  });
  const broken: string[] = [];
  const events = {
    onBroken: (message: string) => void broken.push(message),
    onHang: (message: string) => void broken.push(message),
    onClosed: () => void broken.push('closed'),
    onEvent: () => undefined,
    onIrq: () => undefined,
  };
  const say = (text: string): void => {
    const size = random.below(3) === 0 ? 1 + random.below(9) : text.length + 1;
    for (let at = 0; at <= text.length; at += size) stream.emit('data', `${text}\n`.slice(at, at + size));
  };
  const benign = random.below(4) === 0;
  const onQmp = random.below(2) === 0;
  const qmp = new QmpClient(stream, PATIENCE, events);
  const over = new Error('the case is over');
  if (onQmp) {
    say('{"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}}}');
    const read = (answer: unknown): string | undefined => (typeof answer === 'string' ? answer : undefined);
    const call = qmp.query('query-text', {}, read).catch((error: unknown) => error);
    if (benign) {
      for (let i = random.below(5); i >= 0; i--) say(random.pick(QMP_EVENTS));
      say('{"return": "text", "id": 1}');
      assert.equal(await call, 'text');
    } else {
      const shape = random.pick(['null', '1', '{}', '[]', 'true']);
      say(random.below(4) === 0 ? `{"return": ${shape}, "id": 1}` : random.pick(QMP_GARBAGE).replaceAll('ID', '1'));
      await new Promise((resolve) => setImmediate(resolve));
      qmp.end(over);
      const error = await call;
      assert.ok(error instanceof DmaError && error.code === 'ERR_DMAPOOL_QEMU_PROTOCOL', String(error));
    }
    assert.equal(broken.length, benign ? 0 : 1, broken.join());
    qmp.end(over);
    return;
  }
  qmp.end(over);
  const wire = new Duplex({
    read: () => undefined,
    write: (_chunk, _encoding, done) => {
      done();
    },
  });
  const qtest = new QtestClient(wire, PATIENCE, events);
  const answer = (text: string): void => void wire.emit('data', `${text}\n`);
  const bus = new MachineBus(qtest);
  const bytes = random.below(2) === 0;
  const width = random.pick([8, 16, 32] as const);
  const call = (bytes ? bus.readBytes(0, 3) : bus.readPort(0, width)).catch((error: unknown) => error);
  if (benign) {
    for (let i = random.below(5); i >= 0; i--) answer(random.pick(QTEST_EVENTS));
    answer(bytes ? 'OK AQID' : 'OK 0x007f');
    assert.deepEqual(await call, bytes ? Uint8Array.of(1, 2, 3) : 127);
  } else {
    const wide = `OK 0x${(2 ** width).toString(16)}`;
    const values = [...VALUES.map((value) => `OK${value}`), wide];
    answer(random.pick(random.below(2) === 0 ? values : QTEST_GARBAGE));
    await new Promise((resolve) => setImmediate(resolve));
    qtest.end(over);
    const error = await call;
    assert.ok(error instanceof DmaError && error.code === 'ERR_DMAPOOL_QEMU_PROTOCOL', String(error));
  }
  assert.equal(broken.length, benign ? 0 : 1, broken.join());
  qtest.end(over);
}

let folder: string | null = null;
let binary = '';

export const qmpTarget: FuzzTarget = {
  name: 'qmp',
  async runCase(seed) {
    if (folder === null) {
      folder = mkdtempSync(join(tmpdir(), 'dmapool-fuzz-'));
      binary = peerInFolder(folder);
      // The first machine opens files that the process keeps. Open them before files are counted.
      const machine = await QemuMachine.start({ binary, args: ['{"faults": [], "piece": 0}'] });
      await machine.close();
    }
    const random = new Random(seed);
    for (let i = 0; i < 100; i++) await direct(random);
    await run(binary, random);
  },
  close() {
    if (folder !== null) rmSync(folder, { recursive: true });
    folder = null;
    return Promise.resolve();
  },
};
