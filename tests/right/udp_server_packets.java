// Java: DatagramSocket.
import java.net.*;
import java.nio.charset.StandardCharsets;

class Main {
  public static void main(String[] args) throws Exception {
    DatagramSocket socket = new DatagramSocket(Integer.parseInt(args[0]));
    byte[] buffer = new byte[65535];
    while (true) {
      DatagramPacket packet = new DatagramPacket(buffer, buffer.length);
      socket.receive(packet);
      String text = new String(packet.getData(), 0, packet.getLength(), StandardCharsets.UTF_8);
      System.out.println("Received: " + text);
      socket.send(packet);
    }
  }
}
