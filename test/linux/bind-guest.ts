/**
 * Tests of binding PCI functions to VFIO; run as root in the virtual machine, with the devices that bind.test.ts lists.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BindError, bindToVfio, listPciDevices, unbindFromVfio } from 'dmapool/linux';
import { runCli } from '../cli/run-cli.ts';
import type { DeviceDocument } from '../../src/cli/devices.ts';

const NVME = '0000:00:10.0';
const E1000 = '0000:00:11.0';
const EDU = '0000:00:12.0';
const TWINS = ['0000:00:18.0', '0000:00:18.1'] as const;
const ROOT_PORT = '0000:00:19.0';

function driverOf(address: string): string | null {
  return listPciDevices().find((device) => device.address === address)!.driver;
}

function groupOf(address: string): number {
  return listPciDevices().find((device) => device.address === address)!.iommuGroup!;
}

function refused(code: string, message: RegExp, action: () => unknown): void {
  assert.throws(action, (error) => {
    assert.ok(error instanceof BindError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

function sh(script: string): void {
  execFileSync('sh', ['-ec', script], { stdio: ['ignore', 'ignore', 'pipe'] });
}

void describe('dmapool devices', () => {
  void it('lists functions with class, driver, group and use', async () => {
    const { code, out } = await runCli(['devices', '--json']);
    assert.equal(code, 0);
    const devices = JSON.parse(out) as DeviceDocument[];
    const found = Object.fromEntries(devices.map((device) => [device.address, device]));
    assert.deepEqual(
      [NVME, E1000, EDU, ROOT_PORT].map((address) => [found[address]!.class, found[address]!.driver]),
      [
        ['NVMe storage', 'nvme'],
        ['Ethernet', 'e1000'],
        ['old device', null],
        ['PCI bridge', 'pcieport'],
      ],
    );
    assert.equal(found[TWINS[0]]!.iommuGroup, found[TWINS[1]]!.iommuGroup);
    assert.notEqual(found[NVME]!.iommuGroup, found[E1000]!.iommuGroup);
    assert.deepEqual(found[NVME]!.uses, []);
    const text = (await runCli(['devices'])).out;
    assert.match(text, /^address +id +class +driver +group +in use\n/);
    assert.match(text, /^0000:00:10\.0 +1b36:0010 +NVMe storage +nvme +\d+$/m);
  });
});

void describe('dmapool bind', () => {
  void it('binds a function, prints what it did, and prints how to undo it', async () => {
    const bound = await runCli(['bind', EDU]);
    assert.equal(bound.err, '');
    assert.match(
      bound.out,
      new RegExp(
        `^${EDU}: no driver -> vfio-pci\n( {2}modprobe vfio-pci\n)?( {2}modprobe vfio_iommu_type1\n)? {2}echo vfio-pci > /sys/bus/pci/devices/${EDU}/driver_override\n` +
          ` {2}echo ${EDU} > /sys/bus/pci/drivers_probe\nTo undo this: dmapool unbind ${EDU} .*\n$`,
      ),
    );
    assert.equal(driverOf(EDU), 'vfio-pci');
    assert.ok(existsSync(`/dev/vfio/${String(groupOf(EDU))}`));
    assert.equal((await runCli(['bind', EDU])).out, `${EDU}: has vfio-pci already\n`);
    assert.match((await runCli(['unbind', EDU])).out, new RegExp(`^${EDU}: vfio-pci -> no driver\n`));
    assert.equal(driverOf(EDU), null);
  });

  void it('refuses a disk that is mounted, used as swap, or claimed in another name space, and returns it to its driver', async () => {
    mkdirSync('/run/disk');
    sh('mkfs.ext4 -q /dev/nvme0n1; mount /dev/nvme0n1 /run/disk');
    refused('ERR_DMAPOOL_BIND_IN_USE', /nvme0n1 is mounted at \/run\/disk/, () => bindToVfio([NVME]));
    const { code, err } = await runCli(['bind', NVME]);
    assert.equal(code, 1);
    assert.match(err, /^dmapool: 0000:00:10\.0: it is in use: disk nvme0n1 is mounted at \/run\/disk\n$/);
    sh('umount /run/disk');

    const elsewhere = spawn('unshare', ['-m', 'sh', '-c', 'mount /dev/nvme0n1 /run/disk && echo mounted && cat']);
    await once(elsewhere.stdout, 'data');
    refused('ERR_DMAPOOL_BIND_IN_USE', /nvme0n1 is in use by the kernel/, () => bindToVfio([NVME]));
    elsewhere.stdin.end();
    await once(elsewhere, 'exit');

    sh('mkswap -q /dev/nvme0n1 || mkswap /dev/nvme0n1; swapon /dev/nvme0n1');
    refused('ERR_DMAPOOL_BIND_IN_USE', /nvme0n1 is used as swap/, () => bindToVfio([NVME]));
    sh('swapoff /dev/nvme0n1');

    assert.equal(driverOf(NVME), 'nvme');
    const [bound] = bindToVfio([NVME]);
    assert.deepEqual([bound!.from, bound!.to], ['nvme', 'vfio-pci']);
    assert.ok(!existsSync('/dev/nvme0n1'));
    const [back] = unbindFromVfio([NVME]);
    assert.deepEqual([back!.from, back!.to], ['vfio-pci', 'nvme']);
    sh('for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/nvme0n1 ] && exit 0; sleep 0.2; done; exit 1');
    assert.deepEqual(unbindFromVfio([NVME])[0]!.steps, [], 'nothing is left to undo');
  });

  void it('refuses a network card whose interface is up', () => {
    sh('ip link set eth0 up');
    refused('ERR_DMAPOOL_BIND_IN_USE', /network interface eth0 is up/, () => bindToVfio([E1000]));
    assert.equal(driverOf(E1000), 'e1000');
    sh('ip link set eth0 down');
    bindToVfio([E1000]);
    assert.equal(driverOf(E1000), 'vfio-pci');
    unbindFromVfio([E1000]);
    assert.equal(driverOf(E1000), 'e1000');
  });

  void it('refuses one function of a group, and accepts the whole group', () => {
    refused('ERR_DMAPOOL_BIND_GROUP', /group \d+ also contains 0000:00:18\.1 \(driver e1000\)/, () =>
      bindToVfio([TWINS[0]]),
    );
    assert.deepEqual(TWINS.map(driverOf), ['e1000', 'e1000']);
    // A function that cannot be bound does not affect the others.
    refused('ERR_DMAPOOL_BIND_GROUP', /0000:00:19\.0: it is a bridge/, () => bindToVfio([...TWINS, ROOT_PORT]));
    assert.deepEqual(TWINS.map(driverOf), ['e1000', 'e1000']);
    bindToVfio(TWINS);
    assert.deepEqual(TWINS.map(driverOf), ['vfio-pci', 'vfio-pci']);
    unbindFromVfio(TWINS);
    assert.deepEqual(TWINS.map(driverOf), ['e1000', 'e1000']);
  });

  void it('refuses a function that a process has open', () => {
    bindToVfio([EDU]);
    const fd = openSync(`/dev/vfio/${String(groupOf(EDU))}`, 'r+');
    try {
      refused(
        'ERR_DMAPOOL_BIND_IN_USE',
        new RegExp(`process ${String(process.pid)} \\(.*\\) has /dev/vfio/\\d+ open`),
        () => unbindFromVfio([EDU]),
      );
      assert.equal(driverOf(EDU), 'vfio-pci');
    } finally {
      closeSync(fd);
    }
    unbindFromVfio([EDU]);
  });

  void it('reports that it needs root', () => {
    const cli = fileURLToPath(new URL('../../../bin/dmapool.js', import.meta.url));
    const unprivileged = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath, cli];
    const { status, stderr } = spawnSync('setpriv', [...unprivileged, 'bind', EDU], { encoding: 'utf8' });
    assert.equal(status, 1);
    assert.match(stderr, /^dmapool: 0000:00:12\.0: \S+ can't be written: run this as root\n$/);
  });
});
