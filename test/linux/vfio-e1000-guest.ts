/**
 * Tests of the network card's driver through VFIO; run as root in the virtual machine, with the cards that
 * vfio-e1000.test.ts lists. This process drives one card; the kernel drives the other one, through which node:dgram
 * sends and receives.
 *
 *     frames by hand - drivers/e1000 - VFIO - card == hub == card - kernel's e1000 - IPv4, UDP - node:dgram
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { E1000, type Packet } from 'dmapool/drivers/e1000';
import { bindToVfio, listPciDevices, unbindFromVfio, VfioDevice } from 'dmapool/linux';
import { MIB } from '../support/sizes.ts';
import { type Endpoint, ipBytes, macBytes, MAX_PAYLOAD, readArp, readUdp, writeArp, writeUdp } from './udp-frames.ts';
import { FIRST as OURS, iommuFaults, within10s } from './vfio-guest-support.ts';
import { Random } from '../support/random.ts';

const KERNELS = '0000:00:11.0';
const KERNELS_IP = '10.9.0.1';
const PORT = 4711;
const COUNT = 3000;
/** Datagrams in flight at a time: fewer than any queue holds, so that no loss is excusable. */
const WINDOW = 32;
/** Number and digest. */
const HEADER = 8;

/** Name of a card's interface, once the kernel has created it. */
async function interfaceOf(address: string): Promise<string> {
  const folder = `/sys/bus/pci/devices/${address}/net`;
  assert.ok(await within10s(() => existsSync(folder)), `${address} has an interface`);
  return readdirSync(folder)[0]!;
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Interrupts that the kernel delivered for our card. */
function interruptsOfOurs(): number {
  const line = readFileSync('/proc/interrupts', 'utf8')
    .split('\n')
    .find((candidate) => candidate.includes(`vfio-intx(${OURS})`));
  assert.ok(line !== undefined, 'VFIO drives the card with INTx');
  return [...line.matchAll(/ (\d+)(?= )/g)].reduce((total, [, count]) => total + Number(count), 0);
}

function digestOf(payload: Uint8Array): number {
  return createHash('md5').update(payload.subarray(0, 4)).update(payload.subarray(HEADER)).digest().readUInt32LE(0);
}

/** The traffic in one direction: numbered datagrams of random lengths, each with its digest. */
class Stream {
  readonly #random: Random;
  readonly #seen = new Uint8Array(COUNT);
  #highest = -1;
  sent = 0;
  received = 0;
  /** Datagrams with a wrong digest or an unknown number. */
  changed = 0;
  twice = 0;
  outOfOrder = 0;
  bytes = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  get maySend(): boolean {
    return this.sent < COUNT && this.sent - this.received < WINDOW;
  }

  get done(): boolean {
    return this.received === COUNT;
  }

  /** The next datagram; the shortest and the longest come first. */
  next(): Uint8Array {
    const length = this.sent < 2 ? [HEADER, MAX_PAYLOAD][this.sent]! : this.#length();
    const payload = new Uint8Array(length);
    for (let i = HEADER; i < length; i++) payload[i] = this.#random.next();
    const view = new DataView(payload.buffer);
    view.setUint32(0, this.sent++);
    view.setUint32(4, digestOf(payload), true);
    return payload;
  }

  #length(): number {
    return HEADER + this.#random.below(MAX_PAYLOAD - HEADER + 1);
  }

  take(payload: Uint8Array): void {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    const number = payload.length >= HEADER ? view.getUint32(0) : COUNT;
    if (number >= COUNT || view.getUint32(4, true) !== digestOf(payload)) {
      this.changed++;
      return;
    }
    if (this.#seen[number] === 1) {
      this.twice++;
      return;
    }
    if (number < this.#highest) this.outOfOrder++;
    else this.#highest = number;
    this.#seen[number] = 1;
    this.received++;
    this.bytes += payload.length;
  }

  assertWhole(name: string): void {
    const { sent, received, changed, twice, outOfOrder } = this;
    const expected = { sent: COUNT, received: COUNT, changed: 0, twice: 0, outOfOrder: 0 };
    assert.deepEqual({ sent, received, changed, twice, outOfOrder }, expected, name);
  }
}

type Wait = (nic: E1000) => Promise<unknown>;

/** Our end of the wire. */
class Station {
  readonly here: Endpoint;
  readonly #nic: E1000;
  readonly #batch: Packet[] = [];
  /** Number of requests for our address that were answered. */
  answered = 0;
  /** Learned hardware addresses. */
  readonly neighbours = new Map<string, Uint8Array>();

  constructor(nic: E1000, address: string) {
    this.#nic = nic;
    this.here = { mac: nic.mac, ip: ipBytes(address), port: PORT };
  }

  send(write: (into: Uint8Array) => number): void {
    const packet = this.#nic.packets.alloc();
    packet.length = write(packet.bytes);
    assert.equal(this.#nic.transmit([packet]), 1, 'the ring has room');
  }

  /** Processes the received frames; returns their number. */
  receive(onDatagram: (payload: Uint8Array, from: Endpoint) => void): number {
    const got = this.#nic.receive(this.#batch, 64);
    for (let i = 0; i < got; i++) {
      const { bytes, length } = this.#batch[i]!;
      this.#look(bytes.subarray(0, length), onDatagram);
    }
    this.#nic.packets.freeBatch(this.#batch, 0, got);
    return got;
  }

  #look(frame: Uint8Array, onDatagram: (payload: Uint8Array, from: Endpoint) => void): void {
    const arp = readArp(frame);
    if (arp !== null) {
      if (!arp.isRequest) this.neighbours.set(arp.senderIp.join('.'), arp.senderMac);
      else if (arp.targetIp.join('.') === this.here.ip.join('.')) {
        this.answered++;
        this.send((into) => writeArp(into, this.here, arp.senderIp, arp.senderMac));
      }
      return;
    }
    const datagram = readUdp(frame);
    // The kernel also sends IPv6 router solicitations and the like.
    if (datagram?.to.port === PORT) onDatagram(datagram.payload, datagram.from);
  }

  /** Requests the hardware address of another station until it answers; a link takes seconds to come up. */
  async ask(address: string, wait: Wait): Promise<Uint8Array> {
    const end = Date.now() + 20_000;
    let again = 0;
    for (;;) {
      const mac = this.neighbours.get(address);
      if (mac !== undefined) return mac;
      const now = Date.now();
      assert.ok(now < end, `${address} answers`);
      if (now >= again) {
        this.send((into) => writeArp(into, this.here, ipBytes(address)));
        again = now + 200;
      }
      await wait(this.#nic);
      this.receive(() => assert.fail('the kernel has not resolved our address yet'));
    }
  }
}

/** Sends both ways at once, until all datagrams have arrived or none has for ten seconds. */
async function exchange(station: Station, nic: E1000, socket: Socket, there: Endpoint, wait: Wait): Promise<Stream[]> {
  const seed = Number(process.env['DMAPOOL_SEED'] ?? Date.now() % 2 ** 31);
  console.log(`DMAPOOL_SEED=${String(seed)}`);
  const toKernel = new Stream(new Random(seed));
  const toUs = new Stream(new Random(seed + 2));
  const target = station.here.ip.join('.');
  let failure: unknown = null;
  socket.on('message', (message: Buffer, { address, port }: RemoteInfo) => {
    if (address === target && port === PORT) toKernel.take(message);
  });
  socket.on('error', (error) => {
    failure = error;
  });
  let end = Date.now() + 10_000;
  let last = 0;
  const goOn = (): boolean => {
    if (failure !== null) throw failure as Error;
    const received = toKernel.received + toUs.received;
    if (received !== last) end = Date.now() + 10_000;
    last = received;
    return !(toKernel.done && toUs.done) && Date.now() < end;
  };
  const sending = async (): Promise<void> => {
    while (goOn()) {
      while (toKernel.maySend) {
        const payload = toKernel.next();
        station.send((into) => writeUdp(into, station.here, there, payload));
      }
      while (toUs.maySend) socket.send(toUs.next(), PORT, target);
      await setTimeout(1);
    }
  };
  const receiving = async (): Promise<void> => {
    while (goOn()) {
      const got = station.receive((payload, from) => {
        assert.deepEqual(from, there);
        toUs.take(payload);
      });
      if (got === 0) await wait(nic);
    }
  };
  await Promise.all([sending(), receiving()]);
  return [toKernel, toUs];
}

void describe('e1000 through VFIO', () => {
  let theirs = '';
  before(async () => {
    bindToVfio([OURS]);
    theirs = await interfaceOf(KERNELS);
    ip('addr', 'add', `${KERNELS_IP}/24`, 'dev', theirs);
    ip('link', 'set', theirs, 'up');
  });
  after(() => {
    unbindFromVfio([OURS]);
  });

  const ways: readonly { name: string; address: string; wait: Wait; interrupts: boolean }[] = [
    { name: 'INTx', address: '10.9.0.2', wait: (nic) => nic.waitForPackets({ timeout: 100 }), interrupts: true },
    { name: 'polling', address: '10.9.0.3', wait: () => setImmediate(), interrupts: false },
  ];
  for (const { name, address, wait, interrupts } of ways) {
    void it(`carries ${String(COUNT)} datagrams each way, to and from the kernel's driver (${name})`, async (t) => {
      const vfio = await VfioDevice.open(OURS, { memory: { size: 8 * MIB, hugepages: true } });
      const socket = createSocket('udp4');
      try {
        const nic = await E1000.open(vfio.pci);
        try {
          const atFirst = interruptsOfOurs();
          const station = new Station(nic, address);
          const mac = await station.ask(KERNELS_IP, wait);
          assert.deepEqual(mac, macBytes(readFileSync(`/sys/class/net/${theirs}/address`, 'utf8').trim()));
          // The kernel learned our address from our request; remove it, so that the kernel has to request it.
          ip('neigh', 'flush', 'dev', theirs);
          socket.bind(PORT, KERNELS_IP);
          await once(socket, 'listening');
          const begin = performance.now();
          const there: Endpoint = { mac, ip: ipBytes(KERNELS_IP), port: PORT };
          const [toKernel, toUs] = await exchange(station, nic, socket, there, wait);
          const seconds = (performance.now() - begin) / 1000;
          toKernel!.assertWhole('to the kernel');
          toUs!.assertWhole('from the kernel');
          assert.ok(station.answered > 0, 'the kernel requested our address');
          const raised = interruptsOfOurs() - atFirst;
          assert.equal(raised > 0, interrupts, `${String(raised)} interrupts`);
          const { dropped, starved, failed } = await nic.statistics();
          assert.deepEqual({ dropped, starved, failed }, { dropped: 0, starved: 0, failed: 0 });
          const kib = Math.round((toKernel!.bytes + toUs!.bytes) / 1024);
          t.diagnostic(`${String(kib)} KiB in ${seconds.toFixed(1)} s, ${String(raised)} interrupts`);
        } finally {
          await nic.close();
        }
        assert.equal(nic.packets.active, 0);
        assert.equal(vfio.pci.device.readAttribute('pools'), undefined);
      } finally {
        socket.close();
        await vfio.close();
      }
      assert.deepEqual(iommuFaults(), []);
    });
  }

  void it('leaves the card to the kernel, whose driver works with it', async () => {
    unbindFromVfio([OURS]);
    assert.equal(listPciDevices().find((device) => device.address === OURS)!.driver, 'e1000');
    const back = await interfaceOf(OURS);
    // In a separate network name space: in that of the other card the kernel would bypass the wire.
    const script = `read go; ip addr add 10.9.0.4/24 dev ${back}; ip link set ${back} up; ping -c 3 -w 20 ${KERNELS_IP}`;
    const elsewhere = spawn('unshare', ['-n', 'sh', '-ec', script]);
    try {
      let said = '';
      for (const stream of [elsewhere.stdout, elsewhere.stderr]) stream.on('data', (data) => (said += String(data)));
      const namespace = (process: string): string => readlinkSync(`/proc/${process}/ns/net`);
      const ours = namespace('self');
      assert.ok(await within10s(() => namespace(String(elsewhere.pid)) !== ours));
      ip('link', 'set', back, 'netns', String(elsewhere.pid));
      elsewhere.stdin.write('go\n');
      const [code] = (await once(elsewhere, 'close')) as [number | null];
      assert.equal(code, 0, said);
      assert.match(said, /3 packets transmitted, 3 packets received/);
    } finally {
      elsewhere.kill();
    }
    assert.deepEqual(iommuFaults(), []);
  });
});
