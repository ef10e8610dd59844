/** Failures of QEMU: the caller gets a typed error with QEMU's output within the time-out, and nothing is left behind. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { QemuError, QemuMachine, type QemuMachineOptions } from 'dmapool/qemu';
import { rejectsCode } from '../support/errors.ts';
import { EDU, isAlive, parentOf, processesWith, programInFolder, startMachine, withoutQemu } from './qemu.ts';
import { MIB } from '../support/sizes.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const folder = temporaryFolder();

const fakeQemu = (name: string, script: string): string => programInFolder(folder, name, script);

const GREET = `
const qmp = new (require('node:net').Socket)({ fd: 4 });
const greet = (major, minor) => qmp.write(JSON.stringify({ QMP: { version: { qemu: { major, minor } } } }) + '\\n');
`;

async function fails(code: string, options: QemuMachineOptions): Promise<QemuError> {
  const error: unknown = await QemuMachine.start(options).then(
    () => assert.fail('it started'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof QemuError, String(error));
  assert.equal(error.code, code, error.message);
  if (options.binary !== undefined) assert.deepEqual(processesWith(options.binary), [], 'nothing is left behind');
  return error;
}

void describe('a machine that does not start', () => {
  void it('without QEMU names the package to install', async () => {
    const error = await fails('ERR_DMAPOOL_QEMU_MISSING', { binary: 'no-such-qemu' });
    assert.match(error.message, /no-such-qemu \(ENOENT\).*apt-get install --no-install-recommends qemu-system-x86/);
    const file = join(folder, 'not-executable');
    writeFileSync(file, '');
    assert.match((await fails('ERR_DMAPOOL_QEMU_MISSING', { binary: file })).message, /EACCES/);
  });

  void it('without koffi names the package to install', () => {
    // A copy of the package where koffi can't be found.
    const copy = join(folder, 'dmapool');
    cpSync(fileURLToPath(new URL('../../src', import.meta.url)), join(copy, 'src'), { recursive: true });
    writeFileSync(join(copy, 'package.json'), '{ "type": "module" }');
    const source = `
      import { QemuMachine } from ${JSON.stringify(join(copy, 'src/qemu/index.js'))};
      await QemuMachine.start().catch((error) => console.log(error.code, error.message));`;
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', source], { encoding: 'utf8' });
    assert.match(stdout, /^ERR_DMAPOOL_DEPENDENCY .*npm install koffi\n$/, stderr);
  });

  void it('fails if QEMU is too old', async () => {
    const binary = fakeQemu('old', `${GREET}greet(5, 2); setInterval(() => {}, 1000);`);
    const error = await fails('ERR_DMAPOOL_QEMU_VERSION', { binary });
    assert.match(error.message, /version 5.2 is too old; 6.0 or later is needed/);
  });

  void it('fails if QEMU refuses its arguments', { skip: withoutQemu }, async () => {
    for (const [options, words] of [
      [{ devices: ['no-such-device'] }, /'no-such-device' is not a valid device model name/],
      [{ devices: [{ driver: 'edu', typo: 1 }] }, /Property 'edu\.typo' not found/],
      [{ drives: [{ id: 'd', file: join(folder, 'absent.img') }] }, /absent\.img.*No such file or directory/],
      [{ args: ['--no-such-option'] }, /invalid option/],
      [{ netdevs: ['no-such-netdev,id=n'] }, /no-such-netdev/],
    ] as const) {
      const error = await fails('ERR_DMAPOOL_QEMU_REFUSED', options);
      assert.match(error.message, words);
      assert.match(error.output, words);
    }
  });

  void it('fails if QEMU exits, at any time', async () => {
    for (const [name, script] of [
      ['at-once', 'console.error("words"); process.exitCode = 1;'],
      ['after-greeting', `${GREET}console.error('words'); greet(7, 2); qmp.on('data', () => process.exit(1));`],
    ] as const) {
      const error = await fails('ERR_DMAPOOL_QEMU_REFUSED', { binary: fakeQemu(name, script) });
      assert.match(error.message, /did not start \(it ended with exit code 1\); output: words/);
    }
    const killed = fakeQemu('killed', 'console.error("words"); process.kill(process.pid, "SIGKILL");');
    assert.match(
      (await fails('ERR_DMAPOOL_QEMU_DIED', { binary: killed })).message,
      /terminated by SIGKILL; output: words/,
    );
  });

  void it('fails within the time-out', async () => {
    for (const [name, script] of [
      ['silent', 'console.error("words"); setInterval(() => {}, 1000);'],
      ['mute', `console.error('words'); ${GREET}greet(7, 2); setInterval(() => {}, 1000);`],
    ] as const) {
      const options = { binary: fakeQemu(name, script), startTimeout: 1000 };
      const begin = performance.now();
      const error = await fails('ERR_DMAPOOL_QEMU_TIMEOUT', options);
      assert.ok(performance.now() - begin < 5000);
      assert.match(error.message, /not ready within 1000 ms; it was killed; output: words/);
    }
    const options = {
      binary: fakeQemu('deaf', `${GREET}greet(7, 2); setInterval(() => {}, 1000);`),
      commandTimeout: 300,
    };
    assert.match((await fails('ERR_DMAPOOL_QEMU_TIMEOUT', options)).message, /no reply to qmp_capabilities within 300/);
  });

  void it('fails within the time-out if a script started QEMU and another process keeps its pipes open', async () => {
    const script = join(folder, 'wrapper');
    writeFileSync(
      script,
      `#!/bin/sh\n${process.execPath} -e 'setInterval(() => {}, 1000)' wrapper-child\necho never\n`,
    );
    chmodSync(script, 0o755);
    const begin = performance.now();
    await fails('ERR_DMAPOOL_QEMU_TIMEOUT', { binary: script, startTimeout: 500 });
    assert.ok(performance.now() - begin < 5000);
    assert.deepEqual(processesWith('wrapper-child'), [], 'the script’s child has ended too');
  });

  void it('fails if its program is no path, or an argument is too long', async () => {
    const file = join(folder, 'no-folder');
    writeFileSync(file, '');
    await fails('ERR_DMAPOOL_QEMU_MISSING', { binary: join(file, 'qemu') });
    await fails('ERR_DMAPOOL_QEMU_MISSING', { args: ['x'.repeat(4 * 1024 * 1024)] });
    const watchdogs = processesWith('read -r pid').filter((pid) => parentOf(pid) === process.pid);
    assert.deepEqual(watchdogs, []);
  });

  void it('fails if its devices need more address space than exists', { skip: withoutQemu }, async () => {
    const error = await rejectsCode(
      'ERR_DMAPOOL_PCI_UNSUPPORTED',
      QemuMachine.start({ devices: ['pci-testdev,membar=4G'] }),
    );
    assert.match(error.message, /no address space for BAR 2 \(4294967296 bytes\)/);
  });

  void it('fails if the signal is already aborted', { skip: withoutQemu }, async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const start = QemuMachine.start({ signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(start, reason);
  });

  void it('fails if the signal aborts', async () => {
    const binary = fakeQemu('patient', 'setInterval(() => {}, 1000);');
    const reason = new Error('enough');
    await assert.rejects(QemuMachine.start({ binary, signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const start = QemuMachine.start({ binary, signal: controller.signal });
    setTimeout(() => {
      controller.abort(reason);
    }, 200);
    await assert.rejects(start, reason);
    assert.deepEqual(processesWith(binary), []);
  });

  void it('fails for invalid options', async () => {
    for (const wrong of [
      null,
      { memory: 0 },
      { memory: 64 * MIB + 1 },
      { memory: 4096 * MIB },
      { memory: 8 * MIB, highMemory: 8 * MIB },
      { memory: 3072 * MIB, machine: 'q35' },
      { machine: 'virt' },
      { devices: 'edu' },
      { devices: [''] },
      { devices: [{ driver: 'edu', id: {} }] },
      { devices: [{ 'a,b': 1 }] },
      { devices: [null] },
      { drives: [{ id: 'd' }] },
      { drives: [{ file: 'd' }] },
      { drives: [null] },
      { args: [1] },
      { binary: '' },
      { binary: 'a\0b' },
      { args: ['a\0b'] },
      { devices: ['a\0b'] },
      { startTimeout: 0 },
      { commandTimeout: Infinity },
      { signal: 1 },
    ]) {
      const error = await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', QemuMachine.start(wrong as never));
      assert.match(error.message, /accepted: /);
    }
  });
});

void describe('a machine that fails while it runs', { skip: withoutQemu }, () => {
  void it('rejects every pending call when it dies', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const interrupts = await edu.interrupts();
    process.kill(machine.pid, 'SIGSTOP');
    const waits = [interrupts.wait(), edu.bar(0).read32(0), edu.bar(0).flush(), machine.qmp('query-pci')].map((wait) =>
      rejectsCode('ERR_DMAPOOL_QEMU_DIED', wait),
    );
    process.kill(machine.pid, 'SIGKILL');
    await Promise.all(waits);
    assert.ok(edu.removed.aborted && machine.ended.aborted);
    edu.bar(0).write32(0, 0);
    await rejectsCode('ERR_DMAPOOL_QEMU_DIED', edu.bar(0).read32(0));
    await rejectsCode('ERR_DMAPOOL_QEMU_DIED', machine.open('edu0'));
    await edu.close();
    await machine.close();
    await machine.close();
  });

  void it('reports its own assertion in its output', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    await edu.enableBusMaster();
    // Known of QEMU 7.2: a transfer into the last byte of edu's buffer aborts QEMU itself.
    const bar = edu.bar(0);
    bar.write64(EDU.source, 0x10_0000);
    bar.write64(EDU.destination, EDU.buffer);
    bar.write64(EDU.count, 8192);
    bar.write64(EDU.command, 1);
    const interrupts = await edu.interrupts();
    const error = await rejectsCode('ERR_DMAPOOL_QEMU_DIED', interrupts.wait({ timeout: 5000 }));
    assert.match(error.message, /EDU: DMA range/);
  });

  void it('is killed after the time-out if it hangs', async (t) => {
    const machine = await startMachine(t, { devices: ['edu,id=edu0'], commandTimeout: 300 });
    const edu = await machine.open('edu0');
    const { pid } = machine;
    process.kill(pid, 'SIGSTOP');
    const error = await rejectsCode('ERR_DMAPOOL_QEMU_TIMEOUT', edu.bar(0).read32(0));
    assert.match(error.message, /no reply to readl 0x[0-9a-f]+ within 300 ms/);
    await machine.close();
    assert.ok(!isAlive(pid));
  });

  void it('rejects every pending call when it is closed, and leaves no process', async () => {
    const machine = await QemuMachine.start({ devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    const interrupts = await edu.interrupts();
    const wait = rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', interrupts.wait());
    const { pid } = machine;
    await Promise.all([machine.close(), machine.close()]);
    await wait;
    assert.ok(!isAlive(pid));
    await rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', edu.bar(0).read32(0));
    await rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', machine.open('edu0'));
    await rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', machine.unplug('edu0'));
    await rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', machine.qmp('query-pci'));
    await rejectsCode('ERR_DMAPOOL_QEMU_CLOSED', machine.readMemory(0, 1));
    await edu.close();
  });

  void it('is closed within the time-out even if it does not exit on request', async () => {
    const machine = await QemuMachine.start();
    const { pid } = machine;
    process.kill(pid, 'SIGSTOP');
    await machine.close();
    assert.ok(!isAlive(pid));
  });

  void it('does not count as hung because of a command that cannot be sent', async (t) => {
    const machine = await startMachine(t, { commandTimeout: 200 });
    const circular: Record<string, unknown> = {};
    circular['self'] = circular;
    for (const args of [{ x: 1n }, circular, null, [1], 7]) {
      await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', machine.qmp('query-status', args as never));
    }
    await new Promise((resolve) => setTimeout(resolve, 400));
    assert.ok(await machine.qmp('query-status'));
  });

  void it('ends with its signal', async () => {
    const controller = new AbortController();
    const machine = await QemuMachine.start({ signal: controller.signal });
    const { pid } = machine;
    controller.abort();
    await machine.close();
    assert.ok(!isAlive(pid));
  });
});
