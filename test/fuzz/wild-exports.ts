/** The public functions, methods and accessors of the package and of its objects, found by reflection. */
import * as main from 'dmapool';
import * as conformance from 'dmapool/conformance';
import * as e1000 from 'dmapool/drivers/e1000';
import * as ehci from 'dmapool/drivers/ehci';
import * as nvme from 'dmapool/drivers/nvme';
import * as kernel from 'dmapool/kernel';
import * as linux from 'dmapool/linux';
import * as pci from 'dmapool/pci';
import * as qemu from 'dmapool/qemu';
import * as trace from 'dmapool/trace';
import * as wasm from 'dmapool/wasm';

const ENTRY_POINTS: Readonly<Record<string, object>> = {
  dmapool: main,
  'dmapool/conformance': conformance,
  'dmapool/drivers/e1000': e1000,
  'dmapool/drivers/ehci': ehci,
  'dmapool/drivers/nvme': nvme,
  'dmapool/kernel': kernel,
  'dmapool/linux': linux,
  'dmapool/pci': pci,
  'dmapool/qemu': qemu,
  'dmapool/trace': trace,
  'dmapool/wasm': wasm,
};

/** Functions that are not called. */
const LEFT_OUT = new Set([
  // Starts a process; target `qmp` tests it.
  'dmapool/qemu.QemuMachine.start',
  // Rebinds drivers of the host if the argument is a device's address.
  'dmapool/linux.bindToVfio',
  'dmapool/linux.unbindFromVfio',
]);

export interface Call {
  readonly label: string;
  readonly run: (...args: unknown[]) => unknown;
}

function isError(value: unknown): boolean {
  return typeof value === 'function' && (value === Error || value.prototype instanceof Error);
}

function isClass(value: unknown): boolean {
  return typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value));
}

/** Returns the functions, constructors and static methods of the entry points. */
function findExports(): Call[] {
  const calls: Call[] = [];
  for (const [entry, exports] of Object.entries(ENTRY_POINTS)) {
    for (const [name, value] of Object.entries(exports) as [string, unknown][]) {
      // The package constructs its errors; a user catches them.
      if (typeof value !== 'function' || isError(value) || LEFT_OUT.has(`${entry}.${name}`)) continue;
      const label = `${entry}.${name}`;
      if (!isClass(value)) {
        calls.push({ label, run: value as Call['run'] });
        continue;
      }
      const constructor = value as new (...args: unknown[]) => unknown;
      // A private constructor is reached through a static method only.
      if (!['DmaPool', 'DmaBlock', 'QemuMachine', 'PciFunction', 'Bar', 'ConfigSpace', 'Interrupts'].includes(name)) {
        if (entry === 'dmapool') calls.push({ label: `new ${label}`, run: (...args) => new constructor(...args) });
      }
      for (const key of Object.getOwnPropertyNames(value)) {
        const method: unknown = (value as unknown as Record<string, unknown>)[key];
        if (['length', 'name', 'prototype'].includes(key) || LEFT_OUT.has(`${label}.${key}`)) continue;
        if (typeof method === 'function') {
          calls.push({ label: `${label}.${key}`, run: (...args) => Reflect.apply(method, value, args) as unknown });
        }
      }
    }
  }
  return calls;
}

export const EXPORTED: readonly Call[] = findExports();

/** Returns the methods and accessors of an object and its prototypes. */
export function callsOf(label: string, object: object): Call[] {
  const calls: Call[] = [];
  for (let at: object = object; at !== Object.prototype && at !== null; at = Object.getPrototypeOf(at) as object) {
    for (const key of Reflect.ownKeys(at)) {
      if (key === 'constructor') continue;
      const property = Object.getOwnPropertyDescriptor(at, key)!;
      const method: unknown = property.value;
      if (typeof method === 'function') {
        calls.push({
          label: `${label}.${String(key)}`,
          run: (...args) => Reflect.apply(method, object, args) as unknown,
        });
      } else if (property.get !== undefined) {
        calls.push({ label: `${label}.${String(key)}`, run: () => Reflect.get(object, key) as unknown });
      }
    }
  }
  return calls;
}
