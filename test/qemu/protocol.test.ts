/**
 * Arbitrary data on the sockets of a program that was started as QEMU: the caller gets a typed error, and the machine
 * is killed.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { QemuMachine } from 'dmapool/qemu';
import { rejectsCode } from '../support/errors.ts';
import { PEER_DEVICE, type PeerFault, peerMemory } from './peer.ts';
import { peerInFolder, processesWith } from './qemu.ts';

const folder = mkdtempSync(join(tmpdir(), 'dmapool-test-'));
const binary = peerInFolder(folder);
after(() => {
  assert.deepEqual(processesWith(binary), [], 'nothing is left behind');
  rmSync(folder, { recursive: true });
});

async function start(faults: readonly PeerFault[], piece = 0): Promise<QemuMachine> {
  return QemuMachine.start({ binary, args: [JSON.stringify({ faults, piece })], commandTimeout: 5000 });
}

void describe('a peer that speaks QMP and qtest', () => {
  void it('works as a machine, also when its answers arrive in pieces', async () => {
    for (const piece of [0, 1, 7]) {
      const machine = await start([], piece);
      assert.deepEqual(
        machine.functions.map(({ address, id }) => [address, id]),
        [[PEER_DEVICE.address, PEER_DEVICE.id]],
      );
      assert.deepEqual([...(await machine.readMemory(100, 5))], [100, 101, 102, 103, 104].map(peerMemory));
      const edu = await machine.open(PEER_DEVICE.id);
      await machine.unplug(PEER_DEVICE.id);
      assert.ok(edu.removed.aborted);
      await edu.close();
      await rejectsCode('ERR_DMAPOOL_QEMU_COMMAND', machine.qmp('no-such-command'));
      await machine.close();
    }
  });
});

void describe('a machine does not start', () => {
  const lines: readonly (readonly [what: string, at: number, text: string])[] = [
    ['no JSON', 0, 'this is not JSON'],
    ['half of an object', 0, '{"QMP": '],
    ['null', 0, 'null'],
    ['a number', 0, '7'],
    ['an array', 0, '[]'],
    ['a greeting without version', 0, '{"QMP": {}}'],
    ['a greeting that is a number', 0, '{"QMP": 1}'],
    ['a version of strings', 0, '{"QMP": {"version": {"qemu": {"major": "7", "minor": "2"}}}}'],
    ['a second greeting', 1, '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2}}}}'],
    ['an event that is a number', 1, '{"event": 1}'],
    ['an event with a string as data', 1, '{"event": "STOP", "data": "x"}'],
    ['an answer to a command that was not sent', 1, '{"return": {}, "id": 77}'],
    ['an answer without id', 1, '{"return": {}}'],
    ['an answer to id 0', 1, '{"return": {}, "id": 0}'],
    ['an answer that is neither', 1, '{"id": ID}'],
    ['an answer that is both', 1, '{"return": {}, "error": {"class": "x", "desc": "y"}, "id": ID}'],
    ['an error that is a string', 1, '{"error": "bad", "id": ID}'],
    ['an error without description', 1, '{"error": {"class": "GenericError"}, "id": ID}'],
    ['PCI buses that are null', 2, '{"return": null, "id": ID}'],
    ['PCI buses that are an object', 2, '{"return": {}, "id": ID}'],
    ['a PCI bus that is null', 2, '{"return": [null], "id": ID}'],
    ['a PCI bus without devices', 2, '{"return": [{"bus": 0}], "id": ID}'],
    ['a PCI device that is null', 2, '{"return": [{"devices": [null]}], "id": ID}'],
    ['a PCI device without id', 2, '{"return": [{"devices": [{"bus": 0, "slot": 4, "function": 0}]}], "id": ID}'],
  ];
  for (const [what, at, text] of lines) {
    void it(`for ${what} on QMP`, async () => {
      const error = await rejectsCode(
        'ERR_DMAPOOL_QEMU_PROTOCOL',
        start([{ socket: 'qmp', at, kind: 'instead', text }]),
      );
      assert.match(error.message, /^QEMU: protocol violation on QMP: .*; it was killed/);
    });
  }
  for (const text of [
    '',
    'what',
    'OKAY',
    'OK 0x',
    'OK 12',
    'OK -1',
    'OK 0x100000000',
    'OK 0xg',
    'IRQ',
    'IRQ raise 24',
  ]) {
    void it(`for ${JSON.stringify(text)} on qtest`, async () => {
      // Answer 8 is the first with a value: answers to posted writes may have any text after OK.
      const faults = Array.from(
        { length: 12 },
        (_, i) => ({ socket: 'qtest', at: 8 + i, kind: 'instead', text }) as const,
      );
      await rejectsCode('ERR_DMAPOOL_QEMU_PROTOCOL', start(faults));
    });
  }
  void it('for an answer on qtest to no command', async () => {
    await rejectsCode(
      'ERR_DMAPOOL_QEMU_PROTOCOL',
      start([{ socket: 'qtest', at: 0, kind: 'before', text: 'OK\nOK\nOK\nOK\nOK\nOK' }]),
    );
  });
  void it('for an endless line, which is not kept', async () => {
    for (const socket of ['qmp', 'qtest'] as const) {
      const before = process.memoryUsage().rss;
      const error = await rejectsCode(
        'ERR_DMAPOOL_QEMU_PROTOCOL',
        start([{ socket, at: 1, kind: 'raw', text: [['x'.repeat(1024), 1 << 18]] }]),
      );
      assert.match(error.message, /a line exceeds \d+ characters/);
      assert.ok(process.memoryUsage().rss - before < 200 << 20);
    }
  });
  void it('but does with bridges nested as deeply as the line length allows', async () => {
    const device = '{"bus": 0, "slot": 1, "function": 0, "qdev_id": "", "pci_bridge": {"devices": [';
    const text = [
      ['{"return": [{"devices": [', 1],
      [device, 50_000],
      [']}}', 50_000],
      [']}], "id": ID}', 1],
    ] as const;
    const machine = await start([{ socket: 'qmp', at: 'query-pci', kind: 'instead', text }]);
    assert.equal(machine.functions.length, 1);
    await machine.close();
  });
  void it('for a closed connection when the peer continues', async () => {
    for (const socket of ['qmp', 'qtest'] as const) {
      for (const kind of ['close', 'cut', 'both'] as const) {
        const error = await rejectsCode('ERR_DMAPOOL_QEMU_PROTOCOL', start([{ socket, at: 1, kind }]));
        assert.match(error.message, /the connection closed, but the process did not exit; it was killed/);
      }
    }
  });
});

void describe('a machine that runs fails every call, in flight and later,', () => {
  const faults: readonly (readonly [what: string, fault: PeerFault])[] = [
    ['for invalid JSON', { socket: 'qmp', at: 'query-status', kind: 'before', text: '}{' }],
    [
      'for an answer to no command on QMP',
      { socket: 'qmp', at: 'query-status', kind: 'before', text: '{"return": {}, "id": 999}' },
    ],
    ['for an invalid line on qtest', { socket: 'qtest', at: 'b64read', kind: 'instead', text: 'hello' }],
    ['for invalid base64', { socket: 'qtest', at: 'b64read', kind: 'instead', text: 'OK ****' }],
    ['for fewer bytes than requested', { socket: 'qtest', at: 'b64read', kind: 'instead', text: 'OK AAA=' }],
    ['for a closed connection', { socket: 'qmp', at: 'query-status', kind: 'close' }],
  ];
  for (const [what, fault] of faults) {
    void it(what, async (t) => {
      const machine = await start([fault]);
      t.after(() => machine.close());
      const calls = [machine.readMemory(0, 3), machine.qmp('query-status'), machine.readMemory(0, 3)];
      const ends = await Promise.allSettled(calls);
      assert.ok(
        ends.some(({ status }) => status === 'rejected'),
        'some call fails',
      );
      if (!machine.ended.aborted)
        await new Promise((resolve) => {
          machine.ended.addEventListener('abort', resolve);
        });
      for (const end of ends) {
        if (end.status === 'rejected') assert.equal(end.reason, machine.ended.reason);
      }
      await rejectsCode('ERR_DMAPOOL_QEMU_PROTOCOL', machine.readMemory(0, 1));
      await rejectsCode('ERR_DMAPOOL_QEMU_PROTOCOL', machine.qmp('query-status'));
      await rejectsCode('ERR_DMAPOOL_QEMU_PROTOCOL', machine.unplug(PEER_DEVICE.id));
      machine.writePort(0x80, 8, 1);
    });
  }
  void it('for a status without a boolean, when a device is unplugged', async (t) => {
    const machine = await start([
      { socket: 'qmp', at: 'query-status', kind: 'instead', text: '{"return": null, "id": ID}' },
    ]);
    t.after(() => machine.close());
    await rejectsCode('ERR_DMAPOOL_QEMU_PROTOCOL', machine.unplug(PEER_DEVICE.id));
  });
});
