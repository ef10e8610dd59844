import { Device, HeapMemory } from 'dmapool';

/** A device on heap memory of at most `limit` bytes. */
export function makeDevice(limit = 2 ** 22): Device {
  return new Device({ name: '0000:00:02.0', memory: new HeapMemory({ limit }) });
}
